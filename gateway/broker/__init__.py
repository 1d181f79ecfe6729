"""Between nodes: what stores, orders and carries messages."""
