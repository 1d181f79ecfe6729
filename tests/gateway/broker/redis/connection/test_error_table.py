"""The rule for each error of Redis, and the exception made of it."""

import pytest
from redis import exceptions

from gateway.broker.redis.connection.error_table import (
    ERROR_TABLE,
    BreakerOutcome,
    ErrorAction,
    Fenced,
    rule_for,
)
from gateway.errors import BrokerFull, BrokerUnavailable


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
def test_every_error_of_redis_has_its_rule(error: Exception, word: str) -> None:
    assert rule_for(error) is ERROR_TABLE[word]


RUNNING = "Error running script (call to f_bd6f3018b28bbdb36260f19d3c44afed740db987): @user_script:1: "


@pytest.mark.parametrize(
    ("text", "word"),
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
def test_an_error_inside_a_script_has_the_rule_of_the_command(text: str, word: str) -> None:
    """The texts of Redis 6.2.16 as redis-py returns them, without `ERR `."""
    assert rule_for(exceptions.ResponseError(RUNNING + text)) is ERROR_TABLE[word]


def test_every_rule_makes_an_exception_of_the_broker() -> None:
    for word, rule in ERROR_TABLE.items():
        error = rule.to_exception(exceptions.ResponseError("because"))
        assert isinstance(error, BrokerFull if word == "OOM" else BrokerUnavailable), word
        assert isinstance(error, Fenced) == (word == "FENCED")
        assert "because" in str(error)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TimeoutError(), BreakerOutcome.TIMEOUT),
        (exceptions.TimeoutError("Timeout connecting to server"), BreakerOutcome.TIMEOUT),
        (exceptions.ConnectionError("Connection closed by server."), BreakerOutcome.FAILURE),
        (ConnectionRefusedError(), BreakerOutcome.FAILURE),
        (OSError("no route to host"), BreakerOutcome.FAILURE),
        (exceptions.InvalidResponse("Protocol Error"), BreakerOutcome.FAILURE),
    ],
)
def test_a_broken_connection_is_replaced(error: Exception, outcome: BreakerOutcome) -> None:
    rule = rule_for(error)
    assert (rule.action, rule.outcome) == (ErrorAction.RECONNECT, outcome)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            exceptions.AuthenticationError(
                "AUTH <password> called without any password configured for the derule user. Are you sure"
            ),
            "has no password",
        ),
        (exceptions.ResponseError("DB index is out of range"), "no database of that number"),
        (exceptions.ResponseError("SELECT is not allowed in cluster mode"), "has database 0 alone"),
        (exceptions.ResponseError("This instance has cluster support disabled"), "not a Cluster"),
    ],
)
def test_errors_whose_first_word_says_nothing_are_told_apart_by_their_text(
    error: Exception, message: str
) -> None:
    rule = rule_for(error)
    assert message in rule.message
    assert (rule.action, rule.outcome) == (ErrorAction.RECONNECT, BreakerOutcome.FAILURE)


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
    assert str(rule_for(error).to_exception(error, server)) == text


def test_an_error_of_five_sentinels_is_not_cut() -> None:
    each = "; ".join(f"sentinel-{number}.example.com:26379: no answer in time" for number in range(5))
    error = exceptions.ConnectionError(f"no sentinel knows 'mymaster': {each}")
    assert str(rule_for(error).to_exception(error)).endswith("no answer in time)")
