"""A token stream that survives a reload: the answer belongs to the backend, every window only shows it.

The backend publishes one message for each token. It also keeps the text so far, together with the id of the
last message in it: a page loads both, and the gateway continues exactly after that message.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from example_backend import Accounts, Settings, new_app, serve_page
from fanway_client.admin import AsyncFanwayAdmin
from fanway_client.fastapi import FanwayBackend
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from stand_in_model import tokens


class Question(BaseModel):
    """What is asked."""

    text: Annotated[str, Field(min_length=1, max_length=2_000)]


@dataclass
class Answer:
    """An answer as far as it is published."""

    id: str
    question: str
    text: str = ""
    position: str = ""
    """The id of the last message whose token is in `text`."""
    done: bool = False
    task: asyncio.Task[None] | None = None


async def generate(answer: Answer, admin: AsyncFanwayAdmin, delay: float) -> None:
    """Publish the answer token by token; each is published once, however often the request is repeated."""
    number = 0
    try:
        async for token in tokens(answer.question, delay=delay):
            number += 1
            await publish(answer, admin, number, {"token": token})
    finally:
        answer.done = True
        await publish(answer, admin, number + 1, {"done": True})


async def publish(answer: Answer, admin: AsyncFanwayAdmin, number: int, data: dict[str, Any]) -> None:
    """Publish *data* as message *number* of *answer*, and add its token to the text."""
    receipt = await admin.publish(f"answer:{answer.id}", data, key=f"{answer.id}-{number}")
    answer.text += data.get("token", "")
    answer.position = receipt["message"]


def create_app() -> FastAPI:
    """Return the application; `uvicorn --factory` calls it."""
    settings, accounts = Settings(), Accounts()
    fanway = FanwayBackend(settings.push_url, settings.push_key, secret=settings.secret)
    answers: dict[str, Answer] = {}
    delay = float(os.environ.get("TOKEN_DELAY", "0.05"))
    app = new_app(settings, fanway, accounts)
    app.router.lifespan_context = ending(fanway, answers)
    gateway = Annotated[AsyncFanwayAdmin, Depends(fanway.admin)]
    logged_in = Annotated[str, Depends(accounts.user)]

    def answer_of(id: str) -> Answer:
        if id not in answers:
            raise HTTPException(404, "there is no such answer")
        return answers[id]

    one_answer = Annotated[Answer, Depends(answer_of)]

    @app.post("/ask")
    async def ask(question: Question, _: logged_in, admin: gateway) -> dict[str, str]:
        answer = Answer(secrets.token_urlsafe(9), question.text)
        answers[answer.id] = answer
        answer.position = (await admin.history(f"answer:{answer.id}", limit=0))["position"]
        answer.task = asyncio.create_task(generate(answer, admin, delay))
        return {"id": answer.id}

    @app.get("/answers/{id}")
    async def read(answer: one_answer, _: logged_in) -> dict[str, Any]:
        return {
            "question": answer.question,
            "text": answer.text,
            "done": answer.done,
            "position": answer.position,
        }

    @app.post("/answers/{id}/stop")
    async def stop(answer: one_answer, _: logged_in) -> dict[str, bool]:
        if answer.task is not None:
            answer.task.cancel()
        return {"ok": True}

    serve_page(app, Path(__file__).parent)
    return app


def ending(fanway: FanwayBackend, answers: dict[str, Answer]) -> Any:
    """Return a lifespan that ends the answers which are still being generated, before the push API closes."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with fanway.lifespan(app):
            yield
            running = [answer.task for answer in answers.values() if answer.task is not None]
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    return lifespan
