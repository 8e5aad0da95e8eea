"""The process that takes QStash's signed calls and appends them to the work streams."""
