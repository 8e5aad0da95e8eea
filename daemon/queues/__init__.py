"""The queues in Redis: admission, work streams, settlement, dead letters, control, depths."""
