"""One socket: bytes in, frames out, and a bound on what waits between."""
