"""Load tests for a running gateway, measured from outside: nothing in this package imports the gateway."""
