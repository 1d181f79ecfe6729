"""Bytes to messages and back: JSON with orjson, MessagePack with msgpack; the subprotocols' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn, Protocol

import msgpack
import orjson

from protocol import commands, events, limits
from protocol.errors import BadRequest
from protocol.messages import ClientMessage, ServerMessage
from protocol.payload import Payload, check_depth, check_value, payload_of


class Codec(Protocol):
    """One encoding of the messages; stateless, so one instance serves every connection."""

    @property
    def subprotocol(self) -> str:
        """What is negotiated in Sec-WebSocket-Protocol (RFC 6455 section 1.9)."""

    @property
    def binary(self) -> bool:
        """Whether messages travel in binary frames; text frames otherwise."""

    def decode(self, received: bytes, /) -> ClientMessage:
        """Return the command in *received*; `BadRequest` for everything that is none."""

    def encode(self, message: ServerMessage, /) -> bytes:
        """Return the bytes of a reply or a push."""

    def decode_event(self, received: bytes, /) -> ServerMessage:
        """Return the reply or push in *received*, as a client reads it; `BadRequest` for everything else."""

    def encode_command(self, command: ClientMessage, /) -> bytes:
        """Return the bytes of a command, as a client writes it."""


class JsonCodec:
    """`fanway.v1.json`: one JSON text per text frame (RFC 8259)."""

    subprotocol: Final = "fanway.v1.json"
    binary: Final = False

    def decode(self, received: bytes) -> ClientMessage:
        """Return the command in *received*."""
        return commands.command_of(_with_payload(_json_map(received), source=received))

    def encode(self, message: ServerMessage) -> bytes:
        """Return *message* as JSON; what is already encoded is spliced in."""
        return orjson.dumps(events.map_of(message), default=_json_splice)

    def decode_event(self, received: bytes) -> ServerMessage:
        """Return the reply or push in *received*."""
        return events.event_of(_json_map(received))

    def encode_command(self, command: ClientMessage) -> bytes:
        """Return *command* as JSON."""
        return orjson.dumps(commands.map_of(command), default=_json_splice)


class MsgpackCodec:
    """`fanway.v1.msgpack`: one MessagePack map per binary frame; what JSON cannot carry is refused."""

    subprotocol: Final = "fanway.v1.msgpack"
    binary: Final = True

    def decode(self, received: bytes) -> ClientMessage:
        """Return the command in *received*."""
        return commands.command_of(_with_payload(_msgpack_map(received), source=None))

    def encode(self, message: ServerMessage) -> bytes:
        """Return *message* as MessagePack; what is already encoded is spliced in."""
        return _msgpack_splice(events.map_of(message))

    def decode_event(self, received: bytes) -> ServerMessage:
        """Return the reply or push in *received*."""
        return events.event_of(_msgpack_map(received))

    def encode_command(self, command: ClientMessage) -> bytes:
        """Return *command* as MessagePack."""
        return _msgpack_splice(commands.map_of(command))


JSON: Final[Codec] = JsonCodec()
MSGPACK: Final[Codec] = MsgpackCodec()
CODECS: Final[dict[str, Codec]] = {codec.subprotocol: codec for codec in (JSON, MSGPACK)}
"""Every subprotocol this gateway speaks, in order of preference."""


def decode_json(received: bytes) -> Any:
    """Return the value of the JSON text *received*; `BadRequest` where it is none or nests too deep."""
    try:
        value = orjson.loads(received)
    except ValueError as error:
        raise BadRequest(f"no JSON: {error}") from None
    if received.count(b"[") + received.count(b"{") > limits.DEPTH:
        check_depth(value)
    return value


def decode_msgpack(received: bytes) -> Any:
    """Return the value of *received*; `BadRequest` where it is no MessagePack or holds what JSON cannot carry."""
    try:
        value = msgpack.unpackb(received, strict_map_key=True, ext_hook=_refuse_ext)
    except BadRequest:
        raise
    except (ValueError, msgpack.UnpackException) as error:
        raise BadRequest(f"no MessagePack: {str(error) or type(error).__name__}") from None
    check_value(value)
    return value


def _json_map(received: bytes) -> dict[str, Any]:
    return _map(decode_json(received))


def _msgpack_map(received: bytes) -> dict[str, Any]:
    return _map(decode_msgpack(received))


def _map(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise BadRequest(f"expected a map with a type, not {type(value).__name__}")
    return value


def _with_payload(received: dict[str, Any], *, source: bytes | None) -> Mapping[str, Any]:
    """Turn the `data` of a publish into a payload, so that the value is encoded once and never kept."""
    if received.get("type") == "publish" and "data" in received:
        try:
            received["data"] = payload_of(received["data"], source=source)
        except BadRequest as fault:
            identity = received.get("id")
            legible = type(identity) is int and 1 <= identity <= limits.COMMAND_ID
            raise BadRequest(f"publish.{fault.message}", id=identity if legible else None) from None
    return received


def _json_splice(value: Any) -> Any:
    if isinstance(value, Payload):
        return orjson.Fragment(value.json)
    return orjson.Fragment(value.body(JsonCodec.subprotocol))


def _msgpack_splice(value: Any) -> bytes:
    """Return *value* as MessagePack; msgpack itself has no way to write bytes that are already encoded."""
    if isinstance(value, dict):
        parts = [_packer.pack_map_header(len(value))]
        for name, item in value.items():
            parts += (_packer.pack(name), _msgpack_splice(item))
        return b"".join(parts)
    if isinstance(value, list):
        return b"".join([_packer.pack_array_header(len(value)), *map(_msgpack_splice, value)])
    if isinstance(value, Payload):
        return value.msgpack
    if value is None or isinstance(value, str | int | float):
        packed: bytes = _packer.pack(value if not isinstance(value, str) else str(value))
        return packed
    encoded: bytes = value.body(MsgpackCodec.subprotocol)
    return encoded


_packer = msgpack.Packer(autoreset=True)


def _refuse_ext(code: int, data: bytes) -> NoReturn:
    raise BadRequest(
        f"a MessagePack extension type ({code}, {len(data)} bytes) is nothing that JSON can carry"
    )
