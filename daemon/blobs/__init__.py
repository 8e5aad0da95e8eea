"""Images of tasks: inline, on disk, in Redis, in a bucket; what they really are, and how much room they may take."""
