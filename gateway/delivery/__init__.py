"""From a message to the socket: encoding, send queues, and what happens when a queue is full."""
