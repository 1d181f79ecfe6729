from hypothesis import given
from hypothesis import strategies as st

from gateway.presence.members import Members, apply_changes
from protocol.messages import Join, Leave, Member
from tests.gateway.virtual_time import no_deadline

ANN, BEN, CLEO = Member("c1", "ann"), Member("c2", "ben"), Member("c3", "cleo", {"x": 1})
MEMBERS = st.builds(Member, st.sampled_from(["c1", "c2", "c3", "c4"]), st.sampled_from(["ann", "ben"]))


def test_members_are_in_the_order_of_their_joins() -> None:
    members = Members()
    assert [members.join(member) for member in (CLEO, ANN, BEN)] == [(CLEO, True), (ANN, True), (BEN, True)]
    assert list(members) == [CLEO, ANN, BEN]
    assert (len(members), repr(members)) == (3, "<Members 3>")
    assert members.leave("c3") == CLEO
    assert members.join(CLEO) == (CLEO, True)
    assert list(members) == [ANN, BEN, CLEO]


def test_a_newer_info_replaces_the_older_in_its_place() -> None:
    members = Members()
    members.join(ANN)
    members.join(BEN)
    newer = Member("c1", "ann", "newer")
    assert members.join(newer) == (newer, False)
    assert list(members) == [newer, BEN]


def test_leaving_twice_or_without_a_join_returns_none() -> None:
    members = Members()
    assert members.leave("c1") is None
    members.join(ANN)
    members.leave("c1")
    assert members.leave("c1") is None
    assert not members


def test_changes_are_applied_in_order() -> None:
    changes: list[Join | Leave] = [Join("a", CLEO), Leave("a", ANN), Join("a", BEN)]
    assert apply_changes([ANN, BEN], changes) == (BEN, CLEO)
    assert apply_changes([], []) == ()


CHANGES: st.SearchStrategy[Join | Leave] = st.one_of(
    st.builds(Join, st.just("a"), MEMBERS), st.builds(Leave, st.just("a"), MEMBERS)
)


@no_deadline
@given(st.lists(CHANGES), st.data())
def test_changes_already_in_the_list_do_no_harm(changes: list[Join | Leave], data: st.DataObject) -> None:
    through = data.draw(st.integers(0, len(changes)))
    asked = data.draw(st.integers(0, through))
    seen_when_asked = apply_changes([], changes[:through])
    now = {member.connection for member in apply_changes(seen_when_asked, changes[asked:])}
    assert now == {member.connection for member in apply_changes([], changes)}
