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

from gateway.push import create
from gateway.push.requests import Batch, Broadcast, ChannelChoice, Disconnect, Notify, Publish
from tests.gateway.push.push_kit import stand

MEDIA = {"application/json", "application/msgpack"}
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
    "/v1/publish": Publish,
    "/v1/broadcast": Broadcast,
    "/v1/notify": Notify,
    "/v1/batch": Batch,
    "/v1/users/{user}/disconnect": Disconnect,
    "/v1/users/{user}/subscribe": ChannelChoice,
    "/v1/users/{user}/unsubscribe": ChannelChoice,
}


async def document() -> dict[str, Any]:
    api = await stand()
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


async def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    found = await document()
    schemas = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    assert set(references(found)) == schemas


async def test_every_operation_needs_a_key_and_tells_its_errors_in_both_encodings() -> None:
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
            assert set(answer["content"]) == MEDIA, (path, method, status)
            names = {content["schema"]["$ref"].rpartition("/")[2] for content in answer["content"].values()}
            assert len(names) == 1
            assert (names == {"Failed"}) == (status != "200")
            assert ("Retry-After" in answer.get("headers", {})) == (status in ("429", "503", "507"))


@pytest.mark.parametrize("path", BODIES)
async def test_every_body_is_documented_in_both_encodings(path: str) -> None:
    found = await document()
    body = found["paths"][path]["post"]["requestBody"]
    assert body["required"] is (path != "/v1/users/{user}/disconnect")
    assert set(body["content"]) == MEDIA
    name = BODIES[path].__name__
    for content in body["content"].values():
        assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}
    described = found["components"]["schemas"][name]["properties"]
    assert set(described) == {field.alias or key for key, field in BODIES[path].model_fields.items()}


async def test_the_page_loads_nothing_from_elsewhere() -> None:
    api = await stand()
    async with api.client(authorization="") as client:
        page = await client.get("/docs")
        script = await client.get("/docs/swagger-ui-bundle.js")
        style = await client.get("/docs/swagger-ui.css")
        nothing = await client.get("/docs/redoc.standalone.js")
    assert page.headers["content-type"].startswith("text/html")
    assert "https://" not in page.text
    assert 'src="docs/swagger-ui-bundle.js"' in page.text
    assert 'href="docs/swagger-ui.css"' in page.text
    assert "'openapi.json'" in page.text or '"openapi.json"' in page.text
    assert script.headers["content-type"].startswith("text/javascript")
    assert b"SwaggerUIBundle" in script.content
    assert style.headers["content-type"].startswith("text/css")
    assert nothing.status_code == 404


async def test_other_routes_need_no_key_and_stay_out_of_the_document() -> None:
    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok")

    api = await stand()
    app = create(api.service, routes=[Route("/healthz", healthy)], demo=[Route("/", healthy)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://push") as client:
        answers = [await client.get(path) for path in ("/healthz", "/", "/v1/stats")]
        found = (await client.get("/openapi.json")).json()
    assert [answer.status_code for answer in answers] == [200, 200, 401]
    assert set(found["paths"]) == set(PATHS)
