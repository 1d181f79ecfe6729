"""Chances of the chaos tests."""

import os
import sys
from random import SystemRandom

import pytest


@pytest.fixture
def seed() -> int:
    """Where all chances come from; shown where the test fails. CHAOS_SEED sets it."""
    seed = int(os.environ.get("CHAOS_SEED") or SystemRandom().getrandbits(32))
    sys.stdout.write(f"CHAOS_SEED={seed}\n")
    return seed
