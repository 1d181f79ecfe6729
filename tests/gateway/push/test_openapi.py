"""The API's own documentation: complete, true, and readable without the internet."""

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.push import create_app
from gateway.push.requests import (
    BatchRequest,
    BroadcastRequest,
    DisconnectRequest,
    NotifyRequest,
    PublishRequest,
    SubscriptionRequest,
)
from tests.gateway.push.push_kit import make_api

ENCODINGS = {"application/json", "application/msgpack"}
PATHS = {
    "/v1/publish": {"post"},
    "/v1/broadcast": {"post"},
    "/v1/notify": {"post"},
    "/v1/batch": {"post"},
    "/v1/channels": {"get"},
    "/v1/channels/{channel}": {"get"},
    "/v1/channels/{channel}/presence": {"get"},
    "/v1/channels/{channel}/history": {"get", "delete"},
    "/v1/users/{user}": {"get"},
    "/v1/users/{user}/disconnect": {"post"},
    "/v1/users/{user}/subscribe": {"post"},
    "/v1/users/{user}/unsubscribe": {"post"},
    "/v1/nodes": {"get"},
    "/v1/stats": {"get"},
}
BODIES: dict[str, type[BaseModel]] = {
    "/v1/publish": PublishRequest,
    "/v1/broadcast": BroadcastRequest,
    "/v1/notify": NotifyRequest,
    "/v1/batch": BatchRequest,
    "/v1/users/{user}/disconnect": DisconnectRequest,
    "/v1/users/{user}/subscribe": SubscriptionRequest,
    "/v1/users/{user}/unsubscribe": SubscriptionRequest,
}


async def document() -> dict[str, Any]:
    api = await make_api()
    async with api.client(authorization="") as client:
        first, again = await client.get("/openapi.json"), await client.get("/openapi.json")
    assert first.content == again.content
    found: dict[str, Any] = orjson.loads(first.content)
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for item in part:
            yield from references(item)


async def test_every_path_is_documented_and_nothing_else() -> None:
    found = await document()
    assert {path: set(methods) for path, methods in found["paths"].items()} == PATHS


async def test_every_reference_has_a_schema_and_every_schema_is_used() -> None:
    found = await document()
    schemas = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    assert set(references(found)) == schemas


async def test_every_operation_needs_a_key_and_documents_its_errors_in_both_encodings() -> None:
    found = await document()
    (scheme,) = found["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, method, operation in operations(found):
        assert operation["security"] == [{"key": []}], path
        assert operation["summary"], path
        answers = operation["responses"]
        assert {"200", "401", "422", "500", "503"} <= set(answers), path
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= set(answers), path
        for status, answer in answers.items():
            assert set(answer["content"]) == ENCODINGS, (path, method, status)
            names = {content["schema"]["$ref"].rpartition("/")[2] for content in answer["content"].values()}
            assert len(names) == 1
            assert (names == {"ErrorAnswer"}) == (status != "200")
            assert ("Retry-After" in answer.get("headers", {})) == (status in ("429", "503", "507"))


@pytest.mark.parametrize("path", BODIES)
async def test_every_body_is_documented_in_both_encodings(path: str) -> None:
    found = await document()
    body = found["paths"][path]["post"]["requestBody"]
    assert body["required"] is (path != "/v1/users/{user}/disconnect")
    assert set(body["content"]) == ENCODINGS
    name = BODIES[path].__name__
    for content in body["content"].values():
        assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}
    described = found["components"]["schemas"][name]["properties"]
    assert set(described) == {field.alias or key for key, field in BODIES[path].model_fields.items()}


async def test_other_routes_need_no_key_and_stay_out_of_the_document() -> None:
    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok")

    api = await make_api()
    app = create_app(api.context, routes=[Route("/healthz", healthy)], demo=[Route("/", healthy)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://push") as client:
        answers = [await client.get(path) for path in ("/healthz", "/", "/v1/stats")]
        found = (await client.get("/openapi.json")).json()
    assert [answer.status_code for answer in answers] == [200, 200, 401]
    assert set(found["paths"]) == set(PATHS)


async def test_the_document_names_the_key_of_dev_mode() -> None:
    api = await make_api()
    for dev_key, named in (("dev", True), ("", False)):
        app = create_app(api.context, dev_key=dev_key)
        found = app.openapi()
        assert ("the push key is `dev`" in found["info"]["description"]) is named
        scheme = found["components"]["securitySchemes"]["key"]["description"]
        assert scheme.startswith("In dev mode: dev. ") is named
        assert scheme.endswith("One of `push.keys` of the gateway's configuration.")
