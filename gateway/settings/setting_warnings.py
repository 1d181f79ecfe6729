"""Warnings: settings with which a gateway starts, and that probably are not what their author wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gateway.settings.faults import SettingFault
from gateway.settings.model import Settings


def warnings(settings: Settings) -> Iterator[SettingFault]:
    """Yield the warnings of every function in `WARNINGS`; each is a fault that is not an error."""
    for each in WARNINGS:
        yield from each(settings)


def _tokens_for_others(settings: Settings) -> Iterator[SettingFault]:
    auth = settings.auth
    names = ("auth.audience", "auth.issuer")
    missing = [name for name, value in zip(names, (auth.audience, auth.issuer), strict=True) if not value]
    if auth.jwks_url and missing:
        yield SettingFault(
            "auth.jwks_url",
            "",
            "a token that the same provider issued for another service is accepted",
            f"set {' and '.join(missing)}",
        )


WARNINGS: tuple[Callable[[Settings], Iterator[SettingFault]], ...] = (_tokens_for_others,)
