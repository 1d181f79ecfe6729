from hypothesis import given
from hypothesis import strategies as st

from gateway.hub.sorted_names import SortedNames

NAMES = st.text("ab:~0", max_size=4)


@given(names=st.sets(NAMES), removed=st.sets(NAMES), after=NAMES, prefix=NAMES)
def test_names_come_in_order_after_a_name_and_with_a_prefix(
    names: set[str], removed: set[str], after: str, prefix: str
) -> None:
    index = SortedNames()
    for name in names:
        index.add(name)
    for name in names & removed:
        index.remove(name)
    left = names - removed
    assert len(index) == len(left)
    found = list(index.after(after, prefix=prefix))
    assert found == sorted(name for name in left if name > after and name.startswith(prefix))
