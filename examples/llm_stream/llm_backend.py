"""A token stream that survives a reload: the answer belongs to the backend, every window only shows it.

The backend publishes one message for each token. It also keeps the text so far, together with the id of the
last message in it: a page loads both, and the gateway continues exactly after that message.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from example_backend import Accounts, Settings, User, new_app, serve_page
from fanway_client import FanwayError
from fanway_client.admin import AsyncFanwayAdmin
from fanway_client.fastapi import FanwayBackend
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from stand_in_model import tokens

logger = logging.getLogger(__name__)


class Question(BaseModel):
    """What is asked."""

    text: Annotated[str, Field(min_length=1, max_length=2_000)]


@dataclass
class Answer:
    """An answer as far as it is published. Yours is in a database, and has an owner."""

    id: str
    """Cannot be guessed: who is logged in and has the address of an answer may read it."""
    question: str
    position: str
    """The id of the last message whose token is in `text`."""
    text: str = ""
    published: int = 0
    stopping: bool = False
    done: bool = False
    failed: bool = False

    async def publish(self, admin: AsyncFanwayAdmin, data: dict[str, Any]) -> None:
        """Publish *data*, once however often the request is repeated, and add its token to the text."""
        key = f"{self.id}-{self.published}"
        receipt = await admin.publish(f"answer:{self.id}", data, key=key)
        # No `await` between these lines: whoever loads the answer gets a text and its position.
        self.published += 1
        self.text += data.get("token", "")
        self.done = "done" in data
        self.position = receipt["message"]


async def generate(answer: Answer, admin: AsyncFanwayAdmin, delay: float) -> None:
    """Publish the answer token by token, and then that it is done, also if the model fails."""
    try:
        async with aclosing(tokens(answer.question, delay=delay)) as model:
            async for token in model:
                # Stopped between two tokens: nobody knows whether a publish that is cancelled has happened.
                if answer.stopping:
                    break
                await answer.publish(admin, {"token": token})
    except Exception:  # whatever it was, the other answers go on
        logger.exception("answer %s failed", answer.id)
        answer.failed = True
    try:
        await answer.publish(admin, {"done": True, "failed": answer.failed})
    except FanwayError:
        # Windows that are open learn it when they are reloaded.
        logger.exception("that the answer %s is done could not be published", answer.id)
        answer.done = True


def create_app() -> FastAPI:
    """Return the application; `uvicorn --factory` calls it."""
    settings, accounts = Settings(), Accounts()
    fanway = FanwayBackend(settings.push_url, settings.push_key, secret=settings.secret)
    answers: dict[str, Answer] = {}
    generating = asyncio.TaskGroup()
    delay = float(os.environ.get("TOKEN_DELAY", "0.05"))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # At the end the answers stop first, while the push API is still open.
        async with fanway.lifespan(app), generating:
            yield
            for answer in answers.values():
                answer.stopping = True

    app = new_app(settings, fanway, accounts, lifespan)
    gateway = Annotated[AsyncFanwayAdmin, Depends(fanway.admin)]
    logged_in = Annotated[User, Depends(accounts.user)]

    @app.post("/ask")
    async def ask(_: logged_in, question: Question, admin: gateway) -> dict[str, str]:
        id = secrets.token_urlsafe(16)
        position = (await admin.history(f"answer:{id}", limit=0))["position"]
        answer = answers[id] = Answer(id, question.text, position)
        generating.create_task(generate(answer, admin, delay))
        return {"id": id}

    def answer_of(_: logged_in, id: str) -> Answer:
        if id not in answers:
            raise HTTPException(404, "there is no such answer")
        return answers[id]

    one_answer = Annotated[Answer, Depends(answer_of)]

    @app.get("/answers/{id}")
    async def read(answer: one_answer) -> dict[str, Any]:
        return {
            "question": answer.question,
            "text": answer.text,
            "done": answer.done,
            "failed": answer.failed,
            "position": answer.position,
        }

    @app.post("/answers/{id}/stop", status_code=204)
    async def stop(answer: one_answer) -> None:
        answer.stopping = True

    serve_page(app, Path(__file__).parent)
    return app
