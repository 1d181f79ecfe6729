"""What arrives for this node: routes, the inbox stream, and the order of its entries."""
