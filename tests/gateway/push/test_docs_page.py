"""The page at /docs."""

from tests.gateway.push.push_kit import make_api


async def test_the_page_loads_nothing_from_elsewhere() -> None:
    api = await make_api()
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
