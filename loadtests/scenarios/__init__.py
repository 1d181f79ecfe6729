"""Locustfiles: each is a scenario, for `python -m loadtests` and for plain `locust -f`."""
