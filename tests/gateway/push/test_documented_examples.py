"""The examples of docs/push-api.md, as they make_api there: each does what the page says."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.transport.http.rejections import STATUS
from protocol.errors import ErrorCode
from tests.gateway.push.push_kit import KEY, make_api

PAGE = (Path(__file__).parents[3] / "docs" / "push-api.md").read_text()
EXAMPLE = re.compile(r"```sh\n(curl .*?)```\n\n```json\n(.*?)```", re.DOTALL)
ADDRESS = "http://127.0.0.1:8001"


def examples() -> Iterator[tuple[dict[str, Any], Any]]:
    """Each request that the page shows, as httpx takes it, and the answer below."""
    for command, answer in EXAMPLE.findall(PAGE):
        words = iter(shlex.split(command.replace("\\\n", " "))[1:])
        asked: dict[str, Any] = {"method": "GET", "headers": {}}
        for word in words:
            if word == "-H":
                name, _, value = next(words).partition(": ")
                asked["headers"][name] = value.replace("Bearer dev", f"Bearer {KEY}")
            elif word == "-d":
                asked |= {"method": "POST", "content": next(words).encode()}
            elif word != "-s":
                assert word.startswith(ADDRESS)
                asked["url"] = word.removeprefix(ADDRESS)
        yield asked, orjson.loads(answer)


def shape(answer: Any) -> Any:
    """The answer without ids, times and words."""
    if isinstance(answer, dict):
        return {name: shape(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [shape(item) for item in answer]
    if isinstance(answer, str):
        return re.sub(r"(\d+)-[0-9a-f]{12}$|: .*$", r"\1", answer)
    return answer if isinstance(answer, bool) else min(answer, 1)


async def test_every_example_returns_the_documented_answer() -> None:
    api, seen = await make_api(strict=False), 0
    async with api.client() as client:
        for asked, expected in examples():
            answer = await client.request(**asked)
            assert answer.status_code == 200
            assert shape(answer.json()) == shape(expected), asked["url"]
            seen += 1
    assert seen == PAGE.count("```sh\n") == 7


# The public listener alone answers 403 for an origin, and 429 for too many connections.
PUBLIC_ONLY = {ErrorCode.PERMISSION_DENIED, ErrorCode.LIMIT_EXCEEDED}


@pytest.mark.parametrize("code", [code for code in STATUS if code not in PUBLIC_ONLY])
def test_the_table_of_errors_is_complete(code: ErrorCode) -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if re.match(r"\| \d{3}", line)]
    assert any(str(STATUS[code]) in row[1] and f"`{code}`" in row[2] for row in rows)


async def test_the_page_names_every_path() -> None:
    api = await make_api()
    async with api.client() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    missing = [path for path in paths if path.replace("{user}", "alice") not in PAGE and path not in PAGE]
    assert missing == []
