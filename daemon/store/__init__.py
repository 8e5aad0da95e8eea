"""Postgres: tasks and results (the ledger), audit log, templates, migrations."""
