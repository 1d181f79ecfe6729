"""`python -m tests.chaos`: inject random faults into three nodes and their Redis, repeatable by seed."""

import argparse
import gc
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import SystemRandom

import uvloop
from fanway_client import Fanway

from tests.chaos.random_faults import CLIENT_KINDS, FAULT_KINDS, RoundResult, run_round
from tests.leaks import Holdings, unfinished

ARTIFACTS = Path("artifacts/chaos")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rounds until the time is over; return 1 after the first that is not clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--seed", type=int, help="seed of the first round; each later round uses the next one"
    )
    parser.add_argument(
        "--minutes", type=float, default=3.0, help="total duration; at least one round is run"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of the faults in each round")
    parser.add_argument(
        "--kind", choices=list(FAULT_KINDS), default="", help="kind of faults; random by default"
    )
    parser.add_argument(
        "--clients",
        choices=["all", *CLIENT_KINDS],
        default="all",
        help="clients that take part: those of the tests, or applications on a client library",
    )
    options = parser.parse_args(arguments)
    clients = CLIENT_KINDS if options.clients == "all" else (options.clients,)
    seed: int = SystemRandom().getrandbits(32) if options.seed is None else options.seed
    end = time.monotonic() + 60 * options.minutes
    while True:
        if not run_and_report(seed, options.seconds, options.kind, clients):
            return 1
        if time.monotonic() > end:
            return 0
        seed += 1


def run_and_report(seed: int, seconds: float, kind: str, clients: Sequence[str]) -> bool:
    """Run one round, print its result, and return whether it was clean; keep its files only if it was not."""
    home = ARTIFACTS / str(seed)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    started = time.monotonic()
    try:
        result = uvloop.run(
            run_without_leaks(home.absolute(), seed, seconds=seconds, kind=kind, clients=clients)
        )
    except Exception as error:  # noqa: BLE001 (whatever it is, the seed must be printed)
        for each in leaf_errors(error):
            print_line("".join(traceback.format_exception(each)))
        print_line(f"SEED={seed} is not clean; its history and its nodes' logs are in {home}")
        return False
    print_line(f"SEED={seed} {result} in {time.monotonic() - started:.0f} s")
    shutil.rmtree(home)
    return True


async def run_without_leaks(
    home: Path, seed: int, *, seconds: float, kind: str, clients: Sequence[str]
) -> RoundResult:
    """Run one round, and return what happened.

    Raises:
        AssertionError: The round is not clean, or has left a task, a socket, or a client of the Python
            library, which a timer would hold.
    """
    before, clients_before = Holdings.now(), live_clients()
    result = await run_round(home, seed, seconds=seconds, kind=kind, clients=clients)
    left = await unfinished(before)
    assert not left, left
    held = [client for client in live_clients() if not any(client is each for each in clients_before)]
    assert not held, held
    return result


def live_clients() -> list[Fanway]:
    """Return the clients of the Python library that are referred to, by whatever."""
    gc.collect()
    return [each for each in gc.get_objects() if type(each) is Fanway]


def leaf_errors(error: BaseException) -> Iterator[BaseException]:
    """Return the errors within *error*, without the groups around them."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaf_errors(each)
    else:
        yield error


def print_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
