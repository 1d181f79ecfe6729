"""Load on a running gateway, measured at the wire: nothing here imports the gateway."""
