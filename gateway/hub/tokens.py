"""The tokens in commands: who they are for, and a report of each one that is rejected."""

from __future__ import annotations

from gateway.access.claims import ChannelToken, Identity
from gateway.access.keys import TokenError
from gateway.hub.services import Services
from protocol.errors import ErrorCode


async def verified_identity(services: Services, token: str | None) -> Identity | None:
    """Return who *token* is for; None for an anonymous client, if anonymous clients are allowed."""
    if token is None and services.anonymous:
        return None
    if token is None or services.verifier is None:
        error = TokenError("connect needs a token that this gateway can verify")
        services.on_token_refused(error)
        raise error
    try:
        identity = await services.verifier.identity(token)
        _require_unspent(services, identity.user, "", identity.expires_at)
        return identity
    except TokenError as error:
        services.on_token_refused(error)
        raise


async def verified_channel_token(services: Services, token: str) -> ChannelToken | None:
    """Return the permission in *token*; None if this node verifies no tokens."""
    if services.verifier is None:
        return None
    try:
        granted = await services.verifier.channel_token(token)
        _require_unspent(services, granted.user, granted.channel, granted.expires_at)
        return granted
    except TokenError as error:
        services.on_token_refused(error)
        raise


def _require_unspent(services: Services, user: str, channel: str, expires_at: float | None) -> None:
    if services.is_spent(user, channel, expires_at):
        raise TokenError("the token has expired: fetch a new one", code=ErrorCode.TOKEN_EXPIRED)
