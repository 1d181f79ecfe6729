"""Who may do what: tokens and their keys, the rules of channels, rates, admission and origins.

Nothing here knows the settings, a socket or the hub: everything takes small frozen dataclasses and a clock.
"""
