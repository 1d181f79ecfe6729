"""The memory of the machine, or of the control group if that has less."""

import os
from pathlib import Path

import pytest

from gateway.settings.available_memory import available_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("memory.max", "67108864\n", 67_108_864),
        ("memory/memory.limit_in_bytes", "67108864\n", 67_108_864),
        ("memory.max", "max\n", MACHINE),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", MACHINE),
        ("other", "1", MACHINE),
    ],
)
def test_the_limit_of_a_container_is_read_of_both_versions(
    tmp_path: Path, file: str, text: str, expected: int
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert available_memory(tmp_path) == expected


def test_without_control_groups_it_is_that_of_the_machine(tmp_path: Path) -> None:
    assert available_memory(tmp_path) == MACHINE
    assert 0 < available_memory() <= MACHINE
