"""`python -m tests.chaos`: random mixes of faults against three nodes, for as long as told, by seed."""

import argparse
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import SystemRandom

import uvloop

from tests.chaos.mix import LANES, mixed

FOLDER = Path("artifacts/chaos")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rounds until the time is over; return 1 at the first that is not clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the first round; each later one has the next number")
    parser.add_argument("--minutes", type=float, default=3.0, help="for how long; at least one round is run")
    parser.add_argument("--seconds", type=float, default=20.0, help="of faults in each round")
    parser.add_argument("--kind", choices=list(LANES), default="", help="of bad luck; by default any")
    told = parser.parse_args(arguments)
    seed: int = SystemRandom().getrandbits(32) if told.seed is None else told.seed
    end = time.monotonic() + 60 * told.minutes
    while True:
        if not clean(seed, told.seconds, told.kind):
            return 1
        if time.monotonic() > end:
            return 0
        seed += 1


def clean(seed: int, seconds: float, kind: str) -> bool:
    """Run one round; return whether all was well, and say so; what is left of one that was not is kept."""
    home = FOLDER / str(seed)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    began = time.monotonic()
    try:
        verdict = uvloop.run(mixed(home.absolute(), seed, seconds=seconds, kind=kind))
    except Exception as error:  # noqa: BLE001 (whatever it is, the seed must be told)
        for each in causes(error):
            say("".join(traceback.format_exception(each)))
        say(f"SEED={seed} is not clean; its history and its nodes' logs are in {home}")
        return False
    say(f"SEED={seed} {verdict} in {time.monotonic() - began:.0f} s")
    shutil.rmtree(home)
    return True


def causes(error: BaseException) -> Iterator[BaseException]:
    """Return what went wrong, without the groups around it."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from causes(each)
    else:
        yield error


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
