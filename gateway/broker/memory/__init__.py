"""The embedded broker, for one node: all data is in the memory of the process."""
