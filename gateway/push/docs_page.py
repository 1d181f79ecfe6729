"""The page that shows the OpenAPI document; script and style are this gateway's, not from the internet."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


def routes(path: str, openapi: str) -> list[BaseRoute]:
    """Return the page at *path* about the document at *openapi*, and what the page loads."""
    # Relative, so that the page also works behind a proxy that serves all of this under a prefix.
    base, document = path.rpartition("/")[2], openapi.rpartition("/")[2]
    page = get_swagger_ui_html(
        title="Fanway push API",
        openapi_url=document,
        swagger_js_url=f"{base}/swagger-ui-bundle.js",
        swagger_css_url=f"{base}/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={"validatorUrl": None},
    )

    async def show(_: Request) -> Response:
        return page

    async def asset(request: Request) -> Response:
        name = request.path_params["asset"]
        if name not in _ASSETS:
            raise HTTPException(404)
        return Response(_content(name), media_type=_ASSETS[name], headers={"cache-control": "max-age=86400"})

    return [Route(path, show), Route(f"{path}/{{asset}}", asset)]


@cache
def _content(name: str) -> bytes:
    """Return an asset of Swagger UI as the distribution `fastapi-offline` packs it."""
    return (files("fastapi_offline") / "static" / name).read_bytes()
