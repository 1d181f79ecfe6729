"""Pages for people on the internal listener: the demo of dev mode."""
