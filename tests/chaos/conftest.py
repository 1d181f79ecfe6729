"""The seed of the chaos tests."""

import os
import sys
from random import SystemRandom

import pytest


@pytest.fixture
def seed() -> int:
    """The seed of all random choices; CHAOS_SEED sets it. It is shown where the test fails."""
    seed = int(os.environ.get("CHAOS_SEED") or SystemRandom().getrandbits(32))
    sys.stdout.write(f"CHAOS_SEED={seed}\n")
    return seed
