import orjson

from loadtests import slo
from loadtests.account import Account, summed
from loadtests.report import Report, table


def account(*, lost: bool = False) -> Account:
    made = Account(late_bound=1000)
    track = made.ledger.follow("anna", "c", "0-u")
    for offset in (1, 2, 3):
        made.ledger.acknowledge("c", "b", made.ledger.attempt("c", "b"), f"{offset}-u")
        if not (lost and offset == 2):
            made.ledger.arrived(track, "b", offset, f"{offset}-u")
            made.timings["delivery"].record(1234)
    return made


def report(*accounts: Account, objectives: str = "") -> Report:
    sums = summed([each.statement() for each in accounts])
    outcomes = slo.outcomes(slo.parse(objectives), sums.figures(), sums.timings)
    return Report("fanout", {"users": 1}, 2.0, sums, outcomes)


def test_a_good_run_passes_and_says_how_much_that_was() -> None:
    good = report(account())
    assert not good.failures()
    assert good.as_text().endswith(
        "PASSED fanout: 3 published, 3 delivered, none lost, duplicated, reordered or misnumbered"
    )


def test_a_lost_message_fails_it_and_is_named() -> None:
    bad = report(account(lost=True))
    assert bad.failures() == ["1 lost"]
    assert "b#2 at 2" in bad.as_text()
    assert bad.as_text().endswith("FAILED fanout: 1 lost")


def test_a_broken_objective_fails_it() -> None:
    assert report(account(), objectives="p99<=1ms").failures() == ["p99 <= 1.000 ms broken"]
    assert not report(account(), objectives="p99<=2ms, delivered>=3").failures()


def test_a_run_in_which_nothing_flowed_fails() -> None:
    assert report(Account(late_bound=0)).failures() == ["nothing was delivered"]


def test_users_who_failed_and_a_wrong_presence_fail_it() -> None:
    failed = account()
    failed.fault("crashes", "anna: KeyError")
    failed.fault("presence.ghosts", "x is gone")
    bad = report(failed)
    assert bad.failures() == ["1 crashes", "1 presence.ghosts"]
    assert "crashes: anna: KeyError" in bad.as_text()


def test_several_processes_make_one_report() -> None:
    other = Account(late_bound=0)
    other.timings["delivery"].record(99)
    other.fault("gaps", "somewhere")
    both = report(account(), other)
    assert both.sums.timings["delivery"].count == 4
    assert both.sums.counts["gaps"] == 1


def test_it_is_json_with_everything_in_it() -> None:
    told = orjson.loads(orjson.dumps(report(account(lost=True), objectives="gaps<=0").as_json()))
    assert told["passed"] is False
    assert told["failures"] == ["1 lost"]
    assert told["totals"]["published"] == 3
    assert told["channels"]["c"]["lost"] == 1
    assert told["findings"][0]["which"] == ["b#2 at 2"]
    assert told["timings_us"]["delivery"]["p50"] == 1234
    assert told["objectives"] == [{"objective": "gaps <= 0", "measured": 0, "kept": True}]


def test_a_table_puts_numbers_to_the_right() -> None:
    assert table(["name", "count"], [["a", "1,000"], ["bcdefg", "2"]]) == (
        "name    count\na       1,000\nbcdefg      2"
    )
