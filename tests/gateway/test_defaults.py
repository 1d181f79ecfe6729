"""A default that the settings and a part of the gateway share is the same, and is written once."""

import ast
import inspect
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import orjson
import pytest

from gateway.access import admission, claims, permissions, tokens
from gateway.broker.memory import broker as memory
from gateway.broker.redis import options as redis
from gateway.hub import services
from gateway.memory import NodeMemory
from gateway.push import context as push
from gateway.push import request_limits
from gateway.runtime import factory, listeners
from gateway.settings import Settings
from gateway.transport import public_http
from gateway.transport.websocket import options as websocket

SHARED: dict[str, list[tuple[ModuleType, str, str]]] = {
    "listen.public.header_timeout": [(public_http, "HttpOptions", "header_timeout")],
    "listen.internal.backlog": [(listeners, "Binding", "backlog")],
    "listen.internal.body_size": [(push, "PushContext", "body_size")],
    "auth.leeway": [(claims, "ClaimRules", "leeway"), (tokens, "Verifier", "leeway")],
    "auth.max_ttl": [(claims, "ClaimRules", "max_ttl"), (tokens, "Verifier", "max_ttl")],
    "push.concurrency": [(request_limits, "RequestLimits", "concurrency")],
    "push.rate": [(request_limits, "RequestLimits", "rate")],
    "push.idempotency_ttl": [
        (memory, "MemoryBroker", "key_ttl"),
        (redis, "RedisOptions", "key_ttl"),
        (services, "SessionLimits", "key_ttl"),
    ],
    "heartbeat.grace": [(services, "SessionLimits", "heartbeat_grace")],
    "broker.prefix": [(redis, "RedisOptions", "prefix")],
    "broker.shards_per_server": [(redis, "RedisOptions", "shards_per_server")],
    "broker.cluster_shards": [(redis, "RedisOptions", "cluster_shards")],
    "broker.lease": [(redis, "RedisOptions", "lease")],
    "broker.beat": [(redis, "RedisOptions", "beat")],
    "broker.linger": [(redis, "RedisOptions", "linger")],
    "broker.memory": [(memory, "MemoryBroker", "memory")],
    "broker.meta_ttl": [(memory, "MemoryBroker", "meta_ttl"), (redis, "RedisOptions", "meta_ttl")],
    "outbox.size": [(services, "SessionLimits", "outbox")],
    "outbox.catch_up_batch": [(services, "SessionLimits", "catch_up_batch")],
    "outbox.high_water": [(websocket, "WebSocketOptions", "high_water")],
    "outbox.low_water": [(websocket, "WebSocketOptions", "low_water")],
    "outbox.stall_timeout": [(websocket, "WebSocketOptions", "stall_timeout")],
    "limits.message_size": [
        (services, "SessionLimits", "message_size"),
        (push, "PushContext", "message_size"),
    ],
    "limits.channels_per_connection": [(services, "SessionLimits", "channels")],
    "limits.commands_per_second": [(services, "SessionLimits", "commands_per_second")],
    "limits.command_burst": [(services, "SessionLimits", "command_burst")],
    "limits.strikes": [(services, "SessionLimits", "strikes")],
    "limits.connects_per_second": [(admission, "AdmissionLimits", "connects_per_second")],
    "limits.connect_timeout": [(services, "SessionLimits", "connect_timeout")],
    "limits.history_reply": [
        (services, "SessionLimits", "history_reply"),
        (push, "PushContext", "history_limit"),
    ],
    "limits.presence_reply": [
        (services, "SessionLimits", "presence_reply"),
        (push, "PushContext", "presence_limit"),
    ],
    "limits.rewind": [(services, "SessionLimits", "rewind")],
}
CASES = [(key, *part) for key, parts in SHARED.items() for part in parts]


def value(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


@pytest.mark.parametrize(("key", "module", "owner", "parameter"), CASES)
def test_a_setting_has_the_default_of_the_part_that_it_configures(
    key: str, module: ModuleType, owner: str, parameter: str
) -> None:
    assert value(Settings(), key) == inspect.signature(getattr(module, owner)).parameters[parameter].default


def written(module: ModuleType, owner: str) -> Mapping[str, ast.expr]:
    """Return the defaults of a dataclass's fields, or of a constructor's keyword arguments, as written."""
    tree = ast.parse(inspect.getsource(module))
    body = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == owner).body
    defaults = {
        each.target.id: each.value
        for each in body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value is not None
    }
    for each in body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            pairs = zip(each.args.kwonlyargs, each.args.kw_defaults, strict=True)
            defaults |= {argument.arg: default for argument, default in pairs if default is not None}
    return defaults


@pytest.mark.parametrize(("module", "owner", "parameter"), [case[1:] for case in CASES])
def test_a_shared_default_is_written_once(module: ModuleType, owner: str, parameter: str) -> None:
    default = written(module, owner)[parameter]
    assert isinstance(default, ast.Attribute)
    assert ast.unparse(default.value) in {"defaults", "limits"}


def test_a_command_has_room_for_base64_of_the_largest_data() -> None:
    size = factory.http_options(Settings(), NodeMemory(), lambda *_: None).websocket.message_size
    assert size == websocket.WebSocketOptions().message_size
    encoded = b64encode(bytes(Settings().limits.message_size)).decode()
    publish = {"type": "publish", "id": 2**53 - 1, "channel": "c" * 128, "key": "k" * 128, "data": encoded}
    assert len(orjson.dumps(publish)) <= size


def test_a_channel_has_the_same_rules_with_and_without_settings() -> None:
    assert Settings().namespaces() == {"default": permissions.ChannelRules("default")}


def test_the_settings_load_neither_redis_nor_a_web_server() -> None:
    imported = "import sys, gateway.settings; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", imported], check=True, capture_output=True, text=True
    ).stdout
    assert {"redis", "uvicorn", "fastapi", "starlette"}.isdisjoint(modules.split())
