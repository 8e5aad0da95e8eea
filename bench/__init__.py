"""Measures the product beside its peers and the raw limit: `python -m bench`, or `make bench`."""
