"""How limits.memory is shared."""

import pytest

from gateway.defaults import MIN_NODE_MEMORY_BYTES
from gateway.memory import MIB, SHARES, NodeMemory


@pytest.mark.parametrize("total", [MIN_NODE_MEMORY_BYTES, 64 * MIB, 1024 * MIB, 1024 * 1024 * MIB])
def test_the_parts_are_the_whole_and_most_of_it_is_for_outboxes(total: int) -> None:
    budgets = NodeMemory(total).budgets()
    assert budgets.keys() == {"outboxes", *SHARES}
    assert sum(budget.limit for budget in budgets.values()) == total
    assert budgets["outboxes"].limit >= total / 2
    for name, share in SHARES.items():
        assert MIB // 2 <= budgets[name].limit <= share.most


def test_statistics_have_three_figures_for_each() -> None:
    memory = NodeMemory(64 * MIB)
    memory.outboxes.used, memory.outboxes.freed = 7, 3
    figures = memory.statistics()
    assert (figures["outboxes_bytes"], figures["outboxes_freed"]) == (7, 3)
    assert figures["newest_messages_limit_bytes"] == 8 * MIB
    assert len(figures) == 3 * (1 + len(SHARES))
    assert repr(memory) == "<NodeMemory 7 bytes in use>"
