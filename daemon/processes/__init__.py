"""Composition roots: one file a process, which alone chooses adapters and the order of start and stop."""
