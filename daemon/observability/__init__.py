"""What a process tells of itself: logs without secrets, metrics, trace headers."""
