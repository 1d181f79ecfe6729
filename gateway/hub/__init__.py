"""The sessions of this node, their subscriptions, and what is delivered to them."""
