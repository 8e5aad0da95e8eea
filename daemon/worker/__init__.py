"""The consuming side of a daemon: read, lease, take over, promote.

Knows the streams and the pipeline; decides nothing about a task.
"""
