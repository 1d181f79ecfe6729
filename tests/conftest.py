"""For every test: it runs on the event loop that is used in production, and must leave nothing open."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import pytest_asyncio
import uvloop

from tests.leaks import Holdings, unfinished

_LEAVES_NOTHING = "leaves_nothing"
_LEAVES_NO_TASK = "leaves_no_task"


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], uvloop.Loop]]:
    return {"uvloop": uvloop.new_event_loop}


def pytest_configure() -> None:
    # A process's first loop makes the pipe that signals come by, and keeps it.
    uvloop.new_event_loop().close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and pytest_asyncio.is_async_test(item):
            # Right inside the other: set up before, torn down after all that the test itself asks for.
            item.fixturenames.insert(item.fixturenames.index(_LEAVES_NOTHING) + 1, _LEAVES_NO_TASK)


@pytest.fixture(autouse=True, name=_LEAVES_NOTHING)
def _leaves_nothing() -> Iterator[None]:
    """Fail a test that leaves a descriptor, a thread or a child process.

    What wider fixtures hold was there before.
    """
    before = Holdings.now()
    yield
    if left := before.leftovers():
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(name=_LEAVES_NO_TASK)
async def _leaves_no_task() -> AsyncIterator[None]:
    """Fail a test that leaves a task running or a socket open on its loop."""
    before = Holdings.now()
    yield
    if left := await unfinished(before):
        pytest.fail("left on the loop:\n" + "\n".join(left), pytrace=False)
