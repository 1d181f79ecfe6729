from loadtests.numbering import EPOCH, Numbering, offset

OLD, NEW = "abc", "xyz"


def known(*numbers: int, uid: str = OLD) -> Numbering:
    """Return a numbering that has met these numbers, each under its own uid."""
    numbering = Numbering()
    for number in numbers:
        numbering.establish(f"{number}-{uid}{number}")
    return numbering


def test_the_places_of_one_history_are_its_numbers() -> None:
    numbering = known(0, 1, 2)
    assert numbering.establish("3-n") == 3
    assert numbering.witness("3-n") == (3, True)
    assert numbering.witness("4-n") == (4, True)


def test_a_position_that_lags_behind_is_where_it_always_was() -> None:
    assert known(0, 1, 2, 3).establish(f"2-{OLD}2", above=3) == 2


def test_a_message_under_a_number_that_others_know_for_another_one_is_found_out() -> None:
    assert known(1, 2).witness(f"2-{NEW}") == (2, False)


def test_what_the_server_vouches_for_under_a_number_of_another_message_begins_a_new_history() -> None:
    numbering = known(0, 1, 2)
    assert numbering.establish(f"1-{NEW}") == EPOCH + 1
    assert numbering.witness(f"2-{NEW}") == (EPOCH + 2, True)
    assert numbering.witness(f"2-{OLD}2") == (2, True)


def test_who_stands_further_and_is_sent_back_to_where_nobody_was_is_in_a_new_history() -> None:
    numbering = known(50, 51)
    assert numbering.establish(f"3-{NEW}", above=51) == EPOCH + 3
    assert numbering.establish(f"4-{NEW}", above=50) == EPOCH + 4


def test_a_new_history_may_already_be_longer() -> None:
    numbering = known(0, 1, 2)
    assert numbering.establish(f"2-{NEW}", above=1) == EPOCH + 2
    assert numbering.establish(f"7-{NEW}") == EPOCH + 7


def test_an_empty_channel_may_be_made_again() -> None:
    assert known(0).establish(f"0-{NEW}") == 0


def test_an_emptied_channel_is_a_new_history() -> None:
    assert known(0, 1).establish(f"0-{NEW}") == EPOCH


def test_absurd_numbers_take_no_memory() -> None:
    assert known(1).witness(f"{2**39}-x") == (2**39, True)


def test_reports_show_the_number_of_a_place() -> None:
    assert offset(3 * EPOCH + 7) == 7
