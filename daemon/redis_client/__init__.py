"""Redis itself: connections with our limits, clusters, sentinels, scripts and their batching, names of keys."""
