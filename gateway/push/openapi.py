"""The OpenAPI document of a route: its bodies in both encodings, and every status that it may answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.push.content_types import CONTENT_TYPES
from gateway.push.requests import (
    BatchRequest,
    BroadcastRequest,
    DisconnectRequest,
    NotifyRequest,
    PublishRequest,
    SubscriptionRequest,
)
from gateway.push.responses import ErrorAnswer

_REFERENCE = "#/components/schemas/{model}"
BODIES: tuple[type[BaseModel], ...] = (
    PublishRequest,
    BroadcastRequest,
    NotifyRequest,
    BatchRequest,
    DisconnectRequest,
    SubscriptionRequest,
)

DESCRIPTIONS: dict[int, str] = {
    400: "Malformed: neither JSON nor MessagePack, nested too deep, or a number that 64 bits cannot carry",
    401: "No valid key in `Authorization: Bearer`",
    413: "The body or the message's data is too large",
    415: "A Content-Type or Content-Encoding that is not understood",
    422: "Well-formed but rejected: a field is missing or wrong, a channel's namespace unknown",
    429: "Too many requests: try again after Retry-After",
    500: "The gateway failed; its log says how",
    503: "The broker cannot take it now: try again after Retry-After",
    507: "The broker has no memory left to keep the message",
}
_WITHOUT_BODY = (401, 422, 500, 503)
_WITH_BODY = (400, 401, 413, 415, 422, 500, 503)
_PUBLISH = (400, 401, 413, 415, 422, 429, 500, 503, 507)
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def operation(
    summary: str, answer: type[BaseModel], *, body: type[BaseModel] | None = None, publishes: bool = False
) -> dict[str, Any]:
    """Return the keyword arguments that make FastAPI document a route."""
    statuses = _PUBLISH if publishes else _WITHOUT_BODY if body is None else _WITH_BODY
    responses: dict[int, dict[str, Any]] = {200: _response(answer, "Done")}
    for status in statuses:
        responses[status] = _response(ErrorAnswer, DESCRIPTIONS[status])
        if status in (429, 503, 507):
            responses[status]["headers"] = _RETRY_AFTER
    extra = None if body is None else {"requestBody": _body(body)}
    return {"summary": summary, "responses": responses, "openapi_extra": extra}


def with_bodies(document: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI *document* with the schemas of those bodies that FastAPI does not decode."""
    _, schemas = models_json_schema([(body, "validation") for body in BODIES], ref_template=_REFERENCE)
    document["components"]["schemas"].update(schemas["$defs"])
    return document


def _response(model: type[BaseModel], description: str) -> dict[str, Any]:
    return {"model": model, "description": description, "content": _in_both_encodings(model)}


def _body(model: type[BaseModel]) -> dict[str, Any]:
    required = any(field.is_required() for field in model.model_fields.values())
    return {"required": required, "content": _in_both_encodings(model)}


def _in_both_encodings(model: type[BaseModel]) -> dict[str, Any]:
    return {
        content_type: {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}
        for content_type in CONTENT_TYPES
    }
