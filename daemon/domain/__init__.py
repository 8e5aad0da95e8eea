"""What every room speaks of: messages, events, queues, states, errors, model I/O, permits. Imports nothing of ours."""
