"""Webhooks that a receiver accepts or rejects, signed by the reference implementation, `standardwebhooks`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

Case = dict[str, Any]

NOW = 1_767_225_600
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
UNPADDED = "whsec_" + base64.b64encode(b"a secret of twenty-nine bytes").decode().rstrip("=")
OTHER_SECRET = "whsec_" + base64.b64encode(b"not the secret of the gateway").decode()
ID = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"
BODY = '{"events":[{"id":"e-1","type":"channel.occupied","channel":"chat:1"}]}'


def signature(secret: str, *, id: str = ID, timestamp: int = NOW, body: str = BODY) -> str:
    """Return the signature of a webhook, as the reference makes it."""
    return Webhook(secret).sign(id, datetime.fromtimestamp(timestamp, UTC), body)


def signed(secret: str, *, timestamp: int = NOW, body: str = BODY) -> dict[str, str]:
    """Return the headers of a webhook, as the reference signs it."""
    value = signature(secret, timestamp=timestamp, body=body)
    return {"webhook-id": ID, "webhook-timestamp": str(timestamp), "webhook-signature": value}


def webhook_cases() -> list[Case]:
    """Return every case, with its payload or its error."""
    headers = signed(SECRET)
    return [*_accepted(headers), *_not_authentic(headers), *_malformed(headers)]


def _accepted(headers: Mapping[str, str]) -> list[Case]:
    of_other, of_secret = signature(OTHER_SECRET), headers["webhook-signature"]
    text = '{"hook":"publish","data":{"text":"Zo\u00eb \U0001f600"}}'
    return [
        _case("one secret", headers),
        _case("a secret without its prefix", headers, secrets=[SECRET.removeprefix("whsec_")]),
        _case("a secret without padding", signed(UNPADDED), secrets=[UNPADDED]),
        _case("two secrets, signed with the first", headers, secrets=[SECRET, OLD_SECRET]),
        _case("two secrets, signed with the second", signed(OLD_SECRET), secrets=[SECRET, OLD_SECRET]),
        _case(
            "two signatures, the second by the secret",
            {**headers, "webhook-signature": f"{of_other} {of_secret}"},
        ),
        _case(
            "a signature of another scheme before it",
            {**headers, "webhook-signature": f"v1a,c2lnbmF0dXJl {of_secret}"},
        ),
        _case("names of headers in capitals", {name.title(): value for name, value in headers.items()}),
        _case("a body with more than ASCII", signed(SECRET, body=text), body=text),
        _case("a body with space", signed(SECRET, body=' { "a" : 1 } \n'), body=' { "a" : 1 } \n'),
        _case("300 s old", signed(SECRET, timestamp=NOW - 300)),
        _case("300 s in the future", signed(SECRET, timestamp=NOW + 300)),
    ]


def _not_authentic(headers: Mapping[str, str]) -> list[Case]:
    value = headers["webhook-signature"]
    rejected = {
        "of another secret": signature(OTHER_SECRET),
        "of another body": signature(SECRET, body=BODY + " "),
        "of another id": signature(SECRET, id=f"{ID}x"),
        "of another time": signature(SECRET, timestamp=NOW + 1),
        "of another scheme only": value.replace("v1,", "v1a,"),
        "without a scheme": value.removeprefix("v1,"),
        "with another first byte": _with_another_byte(value, 0),
        "with another last byte": _with_another_byte(value, -1),
        "that ends too early": value[:20],
        "that goes on": f"{value}AAAA",
        "that is empty": "v1,",
        "that is no base64": "v1,*** v1",
    }
    return [
        *(
            _case(
                f"a signature {name}",
                {**headers, "webhook-signature": given},
                error="no_matching_signature",
            )
            for name, given in rejected.items()
        ),
        _case("two secrets, signed with a third", signed(OTHER_SECRET), [SECRET, OLD_SECRET],
              error="no_matching_signature"),
        _case("301 s old", signed(SECRET, timestamp=NOW - 301), error="too_old"),
        _case("301 s in the future", signed(SECRET, timestamp=NOW + 301), error="too_new"),
    ]  # fmt: skip


def _with_another_byte(value: str, index: int) -> str:
    mac = bytearray(base64.b64decode(value.removeprefix("v1,")))
    mac[index] ^= 1
    return f"v1,{base64.b64encode(mac).decode()}"


def _malformed(headers: Mapping[str, str]) -> list[Case]:
    return [
        *(
            _case(
                f"without {name}",
                {other: value for other, value in headers.items() if other != name},
                error="missing_header",
            )
            for name in headers
        ),
        *(
            _case(f"the time {text!r}", {**headers, "webhook-timestamp": text}, error="invalid_timestamp")
            for text in ("now", f"{NOW}.0", f"-{NOW}", f"+{NOW}", f"{NOW}e0", "1" * 13, "\u0661", "nan")
        ),
        _case("a body that is no JSON", signed(SECRET, body="hello"), body="hello", error="invalid_body"),
        _case("an empty body", signed(SECRET, body=""), body="", error="invalid_body"),
    ]


def _case(
    name: str,
    headers: Mapping[str, str],
    secrets: Sequence[str] = (SECRET,),
    *,
    body: str = BODY,
    error: str | None = None,
) -> Case:
    case: Case = {"name": name, "secrets": list(secrets), "now": NOW, "headers": dict(headers), "body": body}
    return {**case, **({} if error is None else {"error": error})}
