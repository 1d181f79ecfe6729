"""Backends that ask for too much are answered 429, and the others are served."""

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

from tests.broker.redis_server import running_redis
from tests.e2e.gateway import gateway_process, publish
from tests.e2e.redis_gateway import wait_ready

BODY = {"channel": "c", "data": 1}


async def test_publishes_beyond_push_concurrency_do_not_wait_for_a_redis_that_hangs(tmp_path: Path) -> None:
    with (
        running_redis(tmp_path) as server,
        gateway_process(
            tmp_path, BROKER__KIND="redis", BROKER__URL=server.url, PUSH__CONCURRENCY="3"
        ) as gateway,
    ):
        await wait_ready(gateway)
        await publish(gateway.internal, "c", 0)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            answers = await asyncio.gather(*(gateway.request("POST", "/v1/publish", BODY) for _ in range(10)))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        statuses = Counter(answer.status_code for answer in answers)
        assert statuses == {503: 3, 429: 7}
        assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 429)
        await wait_ready(gateway)
        await publish(gateway.internal, "c", 1)


async def test_a_key_beyond_push_rate_is_answered_429_on_the_fast_path_too(tmp_path: Path) -> None:
    with gateway_process(tmp_path, PUSH__RATE="1") as gateway:
        batch = {"commands": [{"publish": BODY}] * 990}
        assert (await gateway.request("POST", "/v1/batch", batch)).status_code == 200
        answers = [await gateway.request("POST", "/v1/publish", BODY) for _ in range(60)]
        statuses = [answer.status_code for answer in answers]
        assert statuses[:10] == [200] * 10
        assert 429 in statuses
        assert set(statuses) == {200, 429}
