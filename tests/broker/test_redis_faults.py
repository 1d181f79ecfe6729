"""Which errors mean what, and when to stop asking."""

import pytest
from redis import exceptions

from gateway.broker.redis.connection.breaker import Breaker
from gateway.broker.redis.connection.error_table import ERROR_TABLE, Action, BreakerOutcome, Fenced, rule_for
from gateway.clock import FakeClock
from gateway.errors import BrokerFull, BrokerUnavailable


def made(chance: float = 0.5) -> tuple[Breaker, FakeClock]:
    clock = FakeClock()
    return Breaker(clock, lambda: chance), clock


@pytest.mark.parametrize(
    ("events", "closed"),
    [
        ("tttt", True),
        ("ttttt", False),
        ("ttttsttttst", True),
        ("fffff", True),
        ("s" * 10 + "f" * 9, True),
        ("s" * 10 + "f" * 10, False),
        ("s" * 11 + "f" * 10, True),
        ("f" * 19, True),
        ("f" * 20, False),
        ("s" * 100 + "t" * 4, True),
    ],
)
def test_a_breaker_opens_after_five_timeouts_or_when_half_fails(events: str, closed: bool) -> None:
    breaker, _ = made()
    for event in events:
        if event == "s":
            breaker.succeeded()
        else:
            breaker.failed(timeout=event == "t")
    assert breaker.closed is closed
    assert breaker.admit() is closed


def test_failures_count_for_ten_seconds() -> None:
    breaker, clock = made()
    breaker.failed(19)
    clock.advance(11)
    breaker.failed()
    assert breaker.closed


def test_an_open_breaker_lets_one_call_through_after_a_while() -> None:
    breaker, clock = made()
    breaker.failed(5, timeout=True)
    assert (breaker.waits, breaker.admit()) == (1.0, False)
    clock.advance(1.0)
    assert breaker.admit()
    assert not breaker.admit(), "one call decides"
    breaker.succeeded()
    assert breaker.closed
    assert breaker.admit()


def test_an_open_breaker_stays_open_for_longer_each_time() -> None:
    breaker, clock = made()
    breaker.failed(5, timeout=True)
    waits = []
    for _ in range(6):
        waits.append(breaker.waits)
        clock.advance(breaker.waits)
        assert breaker.admit()
        breaker.failed(timeout=True)
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert breaker.opened == 7
    breaker.reset()
    breaker.failed(5, timeout=True)
    assert breaker.waits == 1.0


@pytest.mark.parametrize(("chance", "waits"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_breakers_do_not_close_together(chance: float, waits: float) -> None:
    breaker, _ = made(chance)
    breaker.failed(5, timeout=True)
    assert breaker.waits == pytest.approx(waits)


def test_a_call_that_is_never_heard_of_does_not_keep_a_breaker_open() -> None:
    breaker, clock = made()
    breaker.failed(5, timeout=True)
    clock.advance(1.0)
    assert breaker.admit()
    assert not breaker.admit()
    clock.advance(1.0)
    assert breaker.admit()


def test_what_was_sent_before_it_opened_decides_nothing() -> None:
    breaker, _ = made()
    breaker.failed(5, timeout=True)
    breaker.succeeded()
    breaker.failed()
    assert not breaker.closed
    assert breaker.opened == 1


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "LOADING"),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), "READONLY"),
        (exceptions.MasterDownError("Link with MASTER is down"), "MASTERDOWN"),
        (exceptions.ClusterDownError("CLUSTERDOWN The cluster is down"), "CLUSTERDOWN"),
        (exceptions.MovedError("1 127.0.0.1:7001"), "MOVED"),
        (exceptions.AskError("1 127.0.0.1:7001"), "ASK"),
        (exceptions.TryAgainError("Multiple keys request during rehashing"), "TRYAGAIN"),
        (exceptions.ClusterCrossSlotError("Keys in request"), "CROSSSLOT"),
        (exceptions.OutOfMemoryError("command not allowed"), "OOM"),
        (exceptions.NoScriptError("No matching script"), "NOSCRIPT"),
        (exceptions.AuthenticationError("Authentication required."), "NOAUTH"),
        (exceptions.AuthenticationError("WRONGPASS invalid username-password pair"), "WRONGPASS"),
        (exceptions.NoPermissionError("this user has no permissions"), "NOPERM"),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), "NOREPLICAS"),
        (exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), "WRONGTYPE"),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), "BUSY"),
        (exceptions.ResponseError("FENCED the lease of n1~x is gone"), "FENCED"),
        (exceptions.ResponseError("ERR unknown command 'XADD'"), "ERR"),
        (exceptions.ResponseError("SOMETHING new"), "ERR"),
    ],
)
def test_every_refusal_has_its_row(error: Exception, word: str) -> None:
    assert rule_for(error) is ERROR_TABLE[word]


RUNNING = "Error running script (call to f_bd6f3018b28bbdb36260f19d3c44afed740db987): @user_script:1: "


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("@user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("@user_script: 1: -NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
        (
            "@user_script: 1: -MISCONF Redis is configured to save RDB snapshots, but it is currently not",
            "MISCONF",
        ),
        ("@user_script: 1: -READONLY You can't write against a read only replica.", "READONLY"),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "WRONGTYPE"),
        (
            "@user_script: 1: The user executing the script can't run this command or subcommand",
            "NOPERM",
        ),
        ("@user_script: 1: Unknown Redis command called from Lua script", "ERR"),
        ("user_script:1: Script attempted to access nonexistent global variable 'nothing'", "ERR"),
    ],
)
def test_what_a_command_inside_of_a_script_was_refused_has_its_row(said: str, word: str) -> None:
    """As redis-py, which takes `ERR ` away, passes on what Redis 6.2.16 says."""
    assert rule_for(exceptions.ResponseError(RUNNING + said)) is ERROR_TABLE[word]


def test_what_redis_refuses_is_an_error_of_ours() -> None:
    for word, fault in ERROR_TABLE.items():
        error = fault.error(exceptions.ResponseError("because"))
        assert isinstance(error, BrokerFull if word == "OOM" else BrokerUnavailable), word
        assert isinstance(error, Fenced) == (word == "FENCED")
        assert "because" in str(error)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (TimeoutError(), BreakerOutcome.TIMEOUT),
        (exceptions.TimeoutError("Timeout connecting to server"), BreakerOutcome.TIMEOUT),
        (exceptions.ConnectionError("Connection closed by server."), BreakerOutcome.FAILURE),
        (ConnectionRefusedError(), BreakerOutcome.FAILURE),
        (OSError("no route to host"), BreakerOutcome.FAILURE),
        (exceptions.InvalidResponse("Protocol Error"), BreakerOutcome.FAILURE),
    ],
)
def test_a_broken_connection_is_made_anew(error: Exception, counts: BreakerOutcome) -> None:
    fault = rule_for(error)
    assert (fault.then, fault.counts) == (Action.RECONNECT, counts)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            exceptions.AuthenticationError(
                "AUTH <password> called without any password configured for the default user. Are you sure"
            ),
            "has no password",
        ),
        (exceptions.ResponseError("DB index is out of range"), "no database of that number"),
        (exceptions.ResponseError("SELECT is not allowed in cluster mode"), "has database 0 alone"),
        (exceptions.ResponseError("This instance has cluster support disabled"), "no Cluster"),
    ],
)
def test_what_the_first_word_does_not_tell_the_text_does(error: Exception, says: str) -> None:
    fault = rule_for(error)
    assert says in fault.says
    assert (fault.then, fault.counts) == (Action.RECONNECT, BreakerOutcome.FAILURE)


@pytest.mark.parametrize(
    ("error", "server", "text"),
    [
        (TimeoutError(), "", "Redis did not answer in time"),
        (TimeoutError(), "h:1", "Redis did not answer in time (h:1)"),
        (OSError("no route"), "h:1", "the connection to Redis failed (h:1: no route)"),
        (
            exceptions.ConnectionError("Error 111 connecting to h:1."),
            "h:1",
            "the connection to Redis failed (Error 111 connecting to h:1.)",
        ),
    ],
)
def test_an_error_names_its_server_once(error: Exception, server: str, text: str) -> None:
    assert str(rule_for(error).error(error, server)) == text


def test_an_error_of_five_sentinels_is_whole() -> None:
    each = "; ".join(f"sentinel-{number}.example.com:26379: no answer in time" for number in range(5))
    error = exceptions.ConnectionError(f"no sentinel knows 'mymaster': {each}")
    assert str(rule_for(error).error(error)).endswith("no answer in time)")
