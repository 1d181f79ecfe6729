import orjson

from loadtests import slo
from loadtests.metrics import ProcessMetrics, merge_snapshots
from loadtests.report import Report, table


def three_messages(*, lose_second: bool = False) -> ProcessMetrics:
    """Return the metrics of one subscriber of three messages, of which the second may be lost."""
    metrics = ProcessMetrics(late_after_us=1000)
    subscription = metrics.deliveries.start_subscription("anna", "c", "0-u")
    for offset in (1, 2, 3):
        number = metrics.deliveries.record_attempt("c", "b")
        metrics.deliveries.record_acknowledgement("c", "b", number, f"{offset}-u")
        if not (lose_second and offset == 2):
            metrics.deliveries.record_delivery(subscription, "b", offset, f"{offset}-u")
            metrics.timings["delivery"].record(1234)
    return metrics


def report(*processes: ProcessMetrics, objectives: str = "") -> Report:
    metrics = merge_snapshots([each.snapshot() for each in processes])
    results = slo.evaluate(slo.parse(objectives), metrics.figures(), metrics.timings)
    return Report("fanout", {"users": 1}, 2.0, metrics, results)


def test_a_run_without_faults_passes_and_names_its_totals() -> None:
    good = report(three_messages())
    assert not good.failures()
    assert good.as_text().endswith(
        "PASSED fanout: 3 published, 3 delivered, none lost, duplicated, reordered or misnumbered"
    )


def test_a_lost_message_fails_the_run_and_is_named() -> None:
    bad = report(three_messages(lose_second=True))
    assert bad.failures() == ["1 lost"]
    assert "b#2 at 2" in bad.as_text()
    assert bad.as_text().endswith("FAILED fanout: 1 lost")


def test_an_objective_that_is_not_met_fails_the_run() -> None:
    assert report(three_messages(), objectives="p99<=1ms").failures() == ["p99 <= 1.000 ms not met"]
    assert not report(three_messages(), objectives="p99<=2ms, delivered>=3").failures()


def test_a_run_without_deliveries_fails() -> None:
    assert report(ProcessMetrics(late_after_us=0)).failures() == ["nothing was delivered"]


def test_crashed_users_and_wrong_presence_fail_the_run() -> None:
    failed = three_messages()
    failed.record_problem("crashes", "anna: KeyError")
    failed.record_problem("presence.departed", "x has disconnected")
    bad = report(failed)
    assert bad.failures() == ["1 crashes", "1 presence.departed"]
    assert "crashes: anna: KeyError" in bad.as_text()


def test_several_processes_make_one_report() -> None:
    other = ProcessMetrics(late_after_us=0)
    other.timings["delivery"].record(99)
    other.record_problem("gaps", "in some channel")
    both = report(three_messages(), other)
    assert both.metrics.timings["delivery"].count == 4
    assert both.metrics.counts["gaps"] == 1


def test_the_json_report_contains_everything() -> None:
    failed = report(three_messages(lose_second=True), objectives="gaps<=0")
    decoded = orjson.loads(orjson.dumps(failed.as_json()))
    assert decoded["passed"] is False
    assert decoded["failures"] == ["1 lost"]
    assert decoded["totals"]["published"] == 3
    assert decoded["channels"]["c"]["lost"] == 1
    assert decoded["findings"][0]["messages"] == ["b#2 at 2"]
    assert decoded["timings_us"]["delivery"]["p50"] == 1234
    assert decoded["objectives"] == [{"objective": "gaps <= 0", "measured": 0, "met": True}]


def test_a_table_aligns_numbers_to_the_right() -> None:
    assert table(["name", "count"], [["a", "1,000"], ["bcdefg", "2"]]) == (
        "name    count\na       1,000\nbcdefg      2"
    )
