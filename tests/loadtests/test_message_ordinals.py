from loadtests.message_ordinals import HISTORY_STRIDE, MessageOrdinals, offset_of

OLD, NEW = "abc", "xyz"


def ordinals_of(*offsets: int, uid: str = OLD) -> MessageOrdinals:
    """Return the ordinals of a channel in which these offsets are confirmed, each with its own uid."""
    ordinals = MessageOrdinals()
    for offset in offsets:
        ordinals.of_confirmed(f"{offset}-{uid}{offset}")
    return ordinals


def test_the_ordinals_of_the_first_history_are_its_offsets() -> None:
    ordinals = ordinals_of(0, 1, 2)
    assert ordinals.of_confirmed("3-n") == 3
    assert ordinals.of_delivered("3-n") == (3, True)
    assert ordinals.of_delivered("4-n") == (4, True)


def test_an_older_position_keeps_its_ordinal() -> None:
    assert ordinals_of(0, 1, 2, 3).of_confirmed(f"2-{OLD}2", after=3) == 2


def test_a_delivered_id_with_the_offset_of_another_message_is_inconsistent() -> None:
    assert ordinals_of(1, 2).of_delivered(f"2-{NEW}") == (2, False)


def test_a_confirmed_id_with_the_offset_of_another_message_starts_a_new_history() -> None:
    ordinals = ordinals_of(0, 1, 2)
    assert ordinals.of_confirmed(f"1-{NEW}") == HISTORY_STRIDE + 1
    assert ordinals.of_delivered(f"2-{NEW}") == (HISTORY_STRIDE + 2, True)
    assert ordinals.of_delivered(f"2-{OLD}2") == (2, True)


def test_an_unknown_position_before_the_newest_one_received_is_in_a_new_history() -> None:
    ordinals = ordinals_of(50, 51)
    assert ordinals.of_confirmed(f"3-{NEW}", after=51) == HISTORY_STRIDE + 3
    assert ordinals.of_confirmed(f"4-{NEW}", after=50) == HISTORY_STRIDE + 4


def test_a_new_history_may_already_be_longer_than_the_old_one() -> None:
    ordinals = ordinals_of(0, 1, 2)
    assert ordinals.of_confirmed(f"2-{NEW}", after=1) == HISTORY_STRIDE + 2
    assert ordinals.of_confirmed(f"7-{NEW}") == HISTORY_STRIDE + 7


def test_an_empty_channel_that_is_created_again_has_the_same_history() -> None:
    assert ordinals_of(0).of_confirmed(f"0-{NEW}") == 0


def test_a_channel_that_was_emptied_has_a_new_history() -> None:
    assert ordinals_of(0, 1).of_confirmed(f"0-{NEW}") == HISTORY_STRIDE


def test_an_absurdly_high_offset_takes_no_memory() -> None:
    assert ordinals_of(1).of_delivered(f"{2**39}-x") == (2**39, True)


def test_the_offset_of_an_ordinal_is_that_of_the_message_id() -> None:
    assert offset_of(3 * HISTORY_STRIDE + 7) == 7
