from hypothesis import given
from hypothesis import strategies as st

from gateway.broker.memory.expiry_wheel import ExpiryWheel


def due_at(wheel: ExpiryWheel, now: float) -> list[str]:
    names: list[str] = []
    while (name := wheel.pop_due(now)) is not None:
        names.append(name)
    return names


@given(
    due=st.dictionaries(st.text(max_size=2), st.floats(0, 20), max_size=20),
    moved=st.dictionaries(st.text(max_size=2), st.floats(0, 20), max_size=20),
    now=st.floats(0, 25),
)
def test_what_is_due_comes_out_by_seconds_and_what_was_moved_is_nowhere_else(
    due: dict[str, float], moved: dict[str, float], now: float
) -> None:
    wheel = ExpiryWheel()
    seconds = {name: wheel.add(name, at) for name, at in due.items()}
    for name in due.keys() & moved.keys():
        wheel.discard(name, seconds[name])
        seconds[name] = wheel.add(name, moved[name])
    found = due_at(wheel, now)
    assert sorted(found) == sorted(name for name, second in seconds.items() if second <= now)
    assert [seconds[name] for name in found] == sorted(seconds[name] for name in found)
    assert sorted(due_at(wheel, 30.0)) == sorted(seconds.keys() - set(found))
