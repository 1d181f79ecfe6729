"""One client connection: bytes in, messages out, with a bound on what waits to be sent."""
