"""Who may do what: tokens and their keys, rules of channels, rate limits, admission and origins.

Nothing here imports the settings, a transport or the hub: arguments are small frozen dataclasses and a clock.
"""
