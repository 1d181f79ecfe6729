"""The client's connection to the gateway, and HTTP on the public listener."""
