"""Adapters on Redis: the work streams, admission, guards and per-task events.

Everything that changes more than one key is a Lua script in `scripts/`.
"""
