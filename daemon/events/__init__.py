"""The events of a task in Redis: the log, deltas for viewers, fan-out, subscriptions, cancel notices."""
