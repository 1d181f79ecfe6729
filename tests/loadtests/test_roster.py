from hypothesis import given
from hypothesis import strategies as st

from loadtests.roster import Roster


def test_it_is_a_list_once_and_then_what_changes() -> None:
    roster = Roster()
    roster.ask()
    roster.answer(["a", "b"])
    roster.change("c", present=True)
    roster.change("a", present=False)
    assert roster.connections == {"b", "c"}


def test_it_does_not_claim_to_know_who_is_here_before_it_was_told() -> None:
    roster = Roster()
    roster.change("a", present=True)
    assert not roster.known
    roster.ask()
    roster.answer([])
    assert roster.known


@given(st.data())
def test_it_is_right_whichever_of_list_and_changes_overtakes_the_other(data: st.DataObject) -> None:
    """The list is made at some moment and comes at another; a connection joins once, and may leave."""
    names = [f"c{index}" for index in range(data.draw(st.integers(0, 6)))]
    joins = [(name, True) for name in names]
    order = list(joins)
    for name in data.draw(st.lists(st.sampled_from(names), unique=True) if names else st.just([])):
        order.insert(data.draw(st.integers(order.index((name, True)) + 1, len(order))), (name, False))
    made = data.draw(st.integers(0, len(order)))
    came = data.draw(st.integers(0, len(order)))
    asked = data.draw(st.integers(0, min(made, came)))
    roster, listed = Roster(), present(order[:made])
    for at, (name, joined) in enumerate(order):
        if at == asked:
            roster.ask()
        if at == came:
            roster.answer(listed)
        roster.change(name, present=joined)
    if asked == len(order):
        roster.ask()
    if came == len(order):
        roster.answer(listed)
    assert roster.connections == present(order)


def present(changes: list[tuple[str, bool]]) -> set[str]:
    return {name for name, joined in changes if joined} - {name for name, joined in changes if not joined}
