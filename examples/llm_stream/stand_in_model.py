"""A stand-in for a language model: the same words for the same question, a few at a time."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator

SENTENCE = (
    "a gateway keeps the connection open and your backend sends each word when the model has it so a page "
    "that was reloaded in the middle continues where it was and a second window that opens late shows the "
    "same text"
)
WORDS = SENTENCE.split()


async def tokens(question: str, *, count: int = 80, delay: float = 0.05) -> AsyncGenerator[str]:
    """Yield *count* tokens, each *delay* seconds after the one before.

    Raises:
        RuntimeError: After ten tokens, if the question begins with "Fail": models do that, too.
    """
    seed = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4])
    for number in range(count):
        await asyncio.sleep(delay)
        if number == 10 and question.startswith("Fail"):
            raise RuntimeError("the model is out of order")
        yield ("" if number == 0 else " ") + WORDS[(seed + number) % len(WORDS)]
