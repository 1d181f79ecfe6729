"""Locustfiles, one per scenario, for `python -m loadtests` and for plain `locust -f`."""
