"""The backends of the examples by HTTP: who may do what, and what happens to requests that come twice."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import httpx
import pytest

from tests.e2e.gateway import TIMEOUT_SECONDS
from tests.examples.running import BACKENDS, Example, example


@contextmanager
def visitor(running: Example, name: str) -> Iterator[httpx.Client]:
    """Log in as *name*."""
    with httpx.Client(base_url=running.url, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        answer = client.post("/login", json={"name": name})
        assert answer.status_code == 200, answer.text
        client.headers["authorization"] = f"Bearer {answer.json()['session']}"
        yield client


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Example]]:
    """Run all examples; the token stream without delays."""
    home = tmp_path_factory.mktemp("examples")
    with (
        example("chat", home) as chat,
        example("notifications", home) as notifications,
        example("llm_stream", home, TOKEN_DELAY="0") as llm_stream,
    ):
        yield {"chat": chat, "notifications": notifications, "llm_stream": llm_stream}


@pytest.mark.parametrize("name", BACKENDS)
def test_every_route_but_the_login_and_the_page_asks_who_it_is(
    name: str, running: dict[str, Example]
) -> None:
    with httpx.Client(base_url=running[name].url, timeout=TIMEOUT_SECONDS, trust_env=False) as nobody:
        paths = nobody.get("/openapi.json").json()["paths"]
        routes = [(method.upper(), path) for path, methods in paths.items() for method in methods]
        assert ("GET", "/fanway/token") in routes
        for method, path in routes:
            status = nobody.request(method, re.sub(r"\{\w+\}", "some", path)).status_code
            assert status == (422 if path == "/login" else 401), f"{method} {path}"


def test_a_session_ends_with_the_logout(running: dict[str, Example]) -> None:
    with visitor(running["chat"], "Ann") as ann:
        assert ann.get("/fanway/token").status_code == 200
        assert ann.post("/logout").status_code == 204
        assert ann.get("/fanway/token").status_code == 401


# ---------------------------------------------------------------- the chat


def test_a_message_that_is_sent_again_is_stored_and_published_once(running: dict[str, Example]) -> None:
    chat = running["chat"]
    with visitor(chat, "Ann") as ann:
        message = {"id": "an-id-of-ann", "text": "hello"}
        first, again = (ann.post("/rooms/again/messages", json=message).json() for _ in range(2))
        assert first == again
        assert ann.get("/rooms/again/messages").json()["messages"] == [first]
    with chat.admin() as admin:
        assert [each["data"] for each in admin.history("chat:again")["messages"]] == [first]


def test_the_id_of_a_message_does_not_open_it_to_others(running: dict[str, Example]) -> None:
    with visitor(running["chat"], "Ann") as ann, visitor(running["chat"], "Ben") as ben:
        message = {"id": "an-id-that-ben-knows", "text": "for the board only"}
        assert ann.post("/rooms/board/messages", json=message).status_code == 200
        for client, room in ((ben, "lobby"), (ben, "board"), (ann, "lobby")):
            answer = client.post(f"/rooms/{room}/messages", json=message | {"text": "?"})
            assert answer.status_code == 409
            assert "board only" not in answer.text
        assert ben.get("/rooms/lobby/messages").json()["messages"] == []


@pytest.mark.parametrize("room", ["a%20b", "%C3%A4", "a%3Ab", "x" * 41])
def test_a_room_whose_name_no_channel_can_have_is_refused(room: str, running: dict[str, Example]) -> None:
    with visitor(running["chat"], "Ann") as ann:
        assert ann.get(f"/rooms/{room}/messages").status_code == 422
        answer = ann.post(f"/rooms/{room}/messages", json={"id": "of-this-room", "text": "?"})
        assert answer.status_code == 422


def test_messages_sent_at_once_are_numbered(running: dict[str, Example]) -> None:
    with visitor(running["chat"], "Ann") as ann, ThreadPoolExecutor(8) as threads:

        def send(number: int) -> dict[str, Any]:
            answer = ann.post("/rooms/busy/messages", json={"id": f"message-{number}", "text": "hello"})
            result: dict[str, Any] = answer.json()
            return result

        sent = list(threads.map(send, range(40)))
        stored = ann.get("/rooms/busy/messages").json()["messages"]
    assert stored == sorted(sent, key=lambda message: message["number"])


# ---------------------------------------------------------------- the notification bell


@pytest.mark.parametrize("name", ["Ann", "Ann Lee", "Zoë", "a_b-c"])
def test_every_name_has_a_personal_channel(name: str, running: dict[str, Example]) -> None:
    bell = running["notifications"]
    with visitor(bell, name) as user:
        assert user.post("/notify", json={"user": name, "text": "hello"}).status_code == 200
        loaded = user.get("/notifications").json()
        assert [(each["text"], each["read"]) for each in loaded["notifications"]] == [("hello", False)]
        channel = user.get("/me").json()["channel"]
        with bell.admin() as admin:
            assert admin.history(channel, limit=0)["position"] == loaded["position"]
        assert loaded["position"].startswith("1-")


def test_a_user_marks_only_their_own_as_read(running: dict[str, Example]) -> None:
    with visitor(running["notifications"], "Cem") as cem, visitor(running["notifications"], "Dan") as dan:
        newest = cem.post("/notify", json={"user": "Dan", "text": "hello"}).json()["id"]
        assert cem.post("/read", json={"id": newest}).status_code == 204
        assert [each["read"] for each in dan.get("/notifications").json()["notifications"]] == [False]
        assert dan.post("/read", json={"id": newest}).status_code == 204
        assert [each["read"] for each in dan.get("/notifications").json()["notifications"]] == [True]


# ---------------------------------------------------------------- the token stream


def test_a_stopped_answer_is_what_was_published(running: dict[str, Example]) -> None:
    llm = running["llm_stream"]
    with visitor(llm, "Ann") as ann, ThreadPoolExecutor(2) as threads, llm.admin() as admin:

        def loaded(id: str) -> dict[str, Any]:
            state: dict[str, Any] = ann.get(f"/answers/{id}").json()
            return state

        for words in range(12):
            id = ann.post("/ask", json={"text": f"question {words}"}).json()["id"]
            deadline = monotonic() + TIMEOUT_SECONDS
            while len(loaded(id)["text"].split()) < words:
                assert monotonic() < deadline
            # Whoever clicks twice sends two.
            for stopped in threads.map(ann.post, [f"/answers/{id}/stop"] * 2):
                assert stopped.status_code == 204
            while not (state := loaded(id))["done"]:
                assert monotonic() < deadline
                sleep(0.01)
            published = [each["data"] for each in admin.history(f"answer:{id}", limit=200)["messages"]]
            assert published[-1] == {"done": True, "failed": False}
            assert "".join(data["token"] for data in published[:-1]) == state["text"]


def test_an_answer_ends_when_the_model_fails(running: dict[str, Example]) -> None:
    llm = running["llm_stream"]
    with visitor(llm, "Ann") as ann, llm.admin() as admin:
        id = ann.post("/ask", json={"text": "Fail, please"}).json()["id"]
        deadline = monotonic() + TIMEOUT_SECONDS
        while not (state := ann.get(f"/answers/{id}").json())["done"]:
            assert monotonic() < deadline
            sleep(0.01)
        assert state["failed"]
        assert len(state["text"].split()) == 10
        newest = admin.history(f"answer:{id}", limit=1, reverse=True)["messages"]
        assert [each["data"] for each in newest] == [{"done": True, "failed": True}]
        assert newest[0]["message"] == state["position"]
