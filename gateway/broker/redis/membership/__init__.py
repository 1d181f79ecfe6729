"""A node among the nodes: its lease, and the cleaning up after nodes that lost theirs."""
