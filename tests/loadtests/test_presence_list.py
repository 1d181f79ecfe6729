from hypothesis import given
from hypothesis import strategies as st

from loadtests.presence_list import PresenceList


def test_changes_are_applied_to_the_list() -> None:
    presence = PresenceList()
    presence.start_request()
    presence.apply_list(["a", "b"])
    presence.apply_change("c", present=True)
    presence.apply_change("a", present=False)
    assert presence.connections == {"b", "c"}


def test_it_is_not_known_before_a_list_is_received() -> None:
    presence = PresenceList()
    presence.apply_change("a", present=True)
    assert not presence.is_known
    presence.start_request()
    presence.apply_list([])
    assert presence.is_known


@given(st.data())
def test_it_is_right_whichever_of_list_and_changes_overtakes_the_other(data: st.DataObject) -> None:
    """The list is made at one moment and arrives at another; a connection joins once, and may leave."""
    names = [f"c{index}" for index in range(data.draw(st.integers(0, 6)))]
    joins = [(name, True) for name in names]
    order = list(joins)
    for name in data.draw(st.lists(st.sampled_from(names), unique=True) if names else st.just([])):
        order.insert(data.draw(st.integers(order.index((name, True)) + 1, len(order))), (name, False))
    made_at = data.draw(st.integers(0, len(order)))
    received_at = data.draw(st.integers(0, len(order)))
    requested_at = data.draw(st.integers(0, min(made_at, received_at)))
    presence, listed = PresenceList(), present_after(order[:made_at])
    for step, (name, joined) in enumerate(order):
        if step == requested_at:
            presence.start_request()
        if step == received_at:
            presence.apply_list(listed)
        presence.apply_change(name, present=joined)
    if requested_at == len(order):
        presence.start_request()
    if received_at == len(order):
        presence.apply_list(listed)
    assert presence.connections == present_after(order)


def present_after(changes: list[tuple[str, bool]]) -> set[str]:
    return {name for name, joined in changes if joined} - {name for name, joined in changes if not joined}
