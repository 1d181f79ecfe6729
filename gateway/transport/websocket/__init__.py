"""WebSockets (RFC 6455): handshake, frames, and the limits of one peer."""
