"""A gateway as a process: the node and its parts, listeners, workers."""
