"""qstreamd: runs long LLM tasks off serverless. See docs/ for the tour; nothing happens at import time."""

__version__ = "0.1.0"
