"""A stand-in for a language model: the same words for the same question, a few at a time."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

SENTENCE = (
    "a gateway keeps the connection open and your backend sends each word when the model has it so a page "
    "that was reloaded in the middle continues where it was and a second window that opens late shows the "
    "same text"
)
WORDS = SENTENCE.split()


async def tokens(question: str, *, count: int = 80, delay: float = 0.05) -> AsyncIterator[str]:
    """Yield *count* tokens, each *delay* seconds after the one before."""
    seed = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4])
    for number in range(count):
        await asyncio.sleep(delay)
        yield ("" if number == 0 else " ") + WORDS[(seed + number) % len(WORDS)]
