"""Adapters of model vendors behind the port `Provider`."""
