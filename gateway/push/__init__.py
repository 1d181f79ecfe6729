"""The internal HTTP API: how backends push."""
