"""The embedded broker: one node, everything in this process."""
