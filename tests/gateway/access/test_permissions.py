from dataclasses import replace

import pytest

from gateway.access.claims import ChannelToken
from gateway.access.permissions import (
    ChannelRules,
    Namespaces,
    OnSlow,
    PublishRule,
    SubscribeRule,
    UnknownChannel,
    may_publish,
    may_read,
    may_subscribe,
)
from gateway.errors import Rejection
from protocol.errors import ErrorCode

DEFAULT = ChannelRules("default")
CHAT = ChannelRules("chat", history=10)
NAMESPACES = {"default": DEFAULT, "chat": CHAT}

TOKEN = ChannelToken("ann", "chat:1", expires_at=None)


@pytest.mark.parametrize(
    ("channel", "rules"),
    [
        ("chat:1", CHAT),
        ("chat:1:2", CHAT),
        ("chat:", CHAT),
        ("chat", DEFAULT),
        ("chatter:1", DEFAULT),
        ("Chat:1", DEFAULT),
        (":1", DEFAULT),
        ("news", DEFAULT),
        ("default:1", DEFAULT),
        ("@chat:1", DEFAULT),
        ("@ann", DEFAULT),
    ],
)
def test_a_channel_has_the_rules_of_the_namespace_before_its_first_colon(
    channel: str, rules: ChannelRules
) -> None:
    assert Namespaces(NAMESPACES).rules(channel) is rules


@pytest.mark.parametrize("channel", ["chat:1", "news", "default:1", "@ann", "@tenant:ann"])
def test_strict_namespaces_accept_configured_namespaces_and_names_without_one(channel: str) -> None:
    namespaces = Namespaces(NAMESPACES, strict=True)
    assert namespaces.rules(channel) is Namespaces(NAMESPACES).rules(channel)


@pytest.mark.parametrize("channel", ["game:1", ":1", "Chat:1"])
def test_strict_namespaces_reject_an_unknown_one(channel: str) -> None:
    with pytest.raises(UnknownChannel) as rejected:
        Namespaces(NAMESPACES, strict=True).rules(channel)
    assert rejected.value.code == "unknown_channel"
    assert repr(channel) in rejected.value.message


def test_rules_for_the_default_namespace_are_required() -> None:
    with pytest.raises(ValueError, match="'default'"):
        Namespaces({"chat": CHAT})


@pytest.mark.parametrize(
    ("on_slow", "history", "effective"),
    [
        ("catch_up", 0, "drop_oldest"),
        ("catch_up", 1, "catch_up"),
        ("conflate", 0, "conflate"),
        ("drop_oldest", 5, "drop_oldest"),
        ("disconnect", 0, "disconnect"),
    ],
)
def test_catch_up_without_history_is_drop_oldest(on_slow: OnSlow, history: int, effective: OnSlow) -> None:
    assert ChannelRules("x", on_slow=on_slow, history=history).effective_on_slow == effective


@pytest.mark.parametrize(
    ("rule", "user", "token", "may"),
    [
        ("anyone", "", None, True),
        ("anyone", "ann", None, True),
        ("anyone", "ann", replace(TOKEN, user="bob"), True),
        ("authenticated", "", None, False),
        ("authenticated", "ann", None, True),
        ("authenticated", "", TOKEN, False),
        ("token", "", None, False),
        ("token", "", TOKEN, False),
        ("token", "ann", None, False),
        ("token", "ann", TOKEN, True),
        ("token", "bob", TOKEN, False),
        ("token", "ann", replace(TOKEN, channel="chat:2"), False),
        ("nobody", "ann", None, False),
        ("nobody", "ann", TOKEN, False),
    ],
)
def test_who_may_subscribe(rule: SubscribeRule, user: str, token: ChannelToken | None, may: bool) -> None:
    rejected = may_subscribe(replace(CHAT, subscribe=rule), user=user, channel="chat:1", channel_token=token)
    assert (rejected is None) is may
    if rejected is not None:
        assert rejected.code is ErrorCode.PERMISSION_DENIED
        assert "'chat:1'" in rejected.message
        assert f'subscribe = "{rule}"' in rejected.message


@pytest.mark.parametrize("rule", ["anyone", "authenticated", "token", "nobody"])
@pytest.mark.parametrize(
    ("user", "channel", "may"),
    [
        ("ann", "@ann", True),
        ("bob", "@ann", False),
        ("", "@ann", False),
        ("an", "@ann", False),
        ("Ann", "@ann", False),
        ("@ann", "@ann", False),
        ("t:ann", "@t:ann", True),
        ("ann", "@t:ann", False),
    ],
)
def test_only_its_user_subscribes_to_a_personal_channel_whatever_the_rules_and_tokens(
    rule: SubscribeRule, user: str, channel: str, may: bool
) -> None:
    rejected = may_subscribe(
        replace(DEFAULT, subscribe=rule),
        user=user,
        channel=channel,
        channel_token=ChannelToken(user, channel, expires_at=None),
    )
    assert (rejected is None) is may


@pytest.mark.parametrize(
    ("rule", "user", "subscribed", "may"),
    [
        ("nobody", "ann", True, False),
        ("subscribers", "ann", True, True),
        ("subscribers", "", True, True),
        ("subscribers", "ann", False, False),
        ("authenticated", "ann", False, True),
        ("authenticated", "", True, False),
        ("anyone", "", False, True),
    ],
)
def test_who_may_publish(rule: PublishRule, user: str, subscribed: bool, may: bool) -> None:
    rules = replace(CHAT, publish=rule)
    rejected = may_publish(rules, user=user, subscribed=subscribed, channel="chat:1")
    assert (rejected is None) is may
    if rejected is not None:
        assert rejected.code is ErrorCode.PERMISSION_DENIED
        assert f"'chat:1' of namespace 'chat' has publish = \"{rule}\"" in rejected.message
        unnamed = may_publish(rules, user=user, subscribed=subscribed)
        assert unnamed is not None
        assert unnamed.message.startswith("namespace 'chat' has publish")


def test_only_subscribers_read_history_and_presence() -> None:
    assert may_read(CHAT, subscribed=True) is None
    rejected = may_read(CHAT, subscribed=False, channel="chat:1")
    assert isinstance(rejected, Rejection)
    assert rejected.code is ErrorCode.NOT_SUBSCRIBED
    assert "subscribe first" in rejected.message


@pytest.mark.parametrize("rule", ["anyone", "authenticated", "subscribers"])
def test_only_its_user_publishes_on_a_personal_channel(rule: PublishRule) -> None:
    rules = ChannelRules("default", publish=rule)
    rejected = may_publish(rules, user="mallory", subscribed=True, channel="@ann")
    assert rejected is not None
    assert rejected.code == "permission_denied"
    assert may_publish(rules, user="ann", subscribed=True, channel="@ann") is None
