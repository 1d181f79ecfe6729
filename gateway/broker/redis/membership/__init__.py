"""Membership in the cluster: a node's lease, and the reaping of nodes whose lease has expired."""
