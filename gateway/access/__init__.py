"""Who may do what: tokens and their keys, rules of channels, rate limits, admission and origins.

Nothing here imports the settings, a transport or the hub: everything takes small frozen dataclasses and a
clock.
"""
