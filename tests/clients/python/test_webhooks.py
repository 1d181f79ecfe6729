"""Signatures of webhooks: the vectors, the reference implementation, and what no vector can hold."""

import json
import time
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from fanway_client.webhooks import WebhookError, sign_webhook, verify_webhook
from hypothesis import given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VECTORS = Path(__file__).parents[3] / "docs" / "vectors" / "webhooks.json"
CASES = json.loads(VECTORS.read_text())["webhooks"]
STATUS = {"missing_header": 400, "invalid_timestamp": 400, "invalid_body": 400}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize("kind", [str, str.encode])
def test_the_vectors(case: dict[str, Any], kind: Any) -> None:
    def verify() -> Any:
        return verify_webhook(case["secrets"], case["headers"], kind(case["body"]), now=case["now"])

    if "error" not in case:
        assert verify() == json.loads(case["body"])
        return
    with pytest.raises(WebhookError) as error:
        verify()
    assert (error.value.code, error.value.status) == (case["error"], STATUS.get(case["error"], 401))


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(codec="ascii"), min_size=1))
def test_the_reference_accepts_what_is_signed_here_and_the_reverse(text: str, id: str) -> None:
    body, now = json.dumps(text), time.time()
    headers = sign_webhook(SECRET, body, id=id)
    assert Webhook(SECRET).verify(body, headers) == text
    headers["webhook-signature"] = Webhook(SECRET).sign(id, datetime.fromtimestamp(now, UTC), body)
    headers["webhook-timestamp"] = str(int(now))
    assert verify_webhook(SECRET, headers, body) == text
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + " ", headers)


@settings(deadline=None)
@given(st.binary(max_size=40), st.text(max_size=40), st.text(max_size=12), st.text(max_size=60))
def test_no_request_of_a_stranger_raises_anything_else(body: bytes, id: str, sent: str, signed: str) -> None:
    headers = {"webhook-id": id, "webhook-timestamp": sent, "webhook-signature": signed}
    with pytest.raises(WebhookError):
        verify_webhook(SECRET, headers, body)
    headers["webhook-timestamp"] = str(int(time.time()))
    with pytest.raises(WebhookError):
        verify_webhook(SECRET, headers, body)


def test_bytes_that_are_no_utf8_are_no_json() -> None:
    body = b'"\xff"'
    with pytest.raises(WebhookError, match="invalid_body"):
        verify_webhook(SECRET, sign_webhook(SECRET, body, id="1"), body)


def test_the_tolerance() -> None:
    headers = sign_webhook(SECRET, "1", id="1", timestamp=1_000)
    assert verify_webhook(SECRET, headers, "1", now=1_010, tolerance=10) == 1
    with pytest.raises(WebhookError, match="too_old"):
        verify_webhook(SECRET, headers, "1", now=1_011, tolerance=10)


def test_headers_of_any_mapping() -> None:
    headers: Any = Message()
    for name, value in sign_webhook(SECRET, "1", id="1").items():
        headers[name.title()] = value
    assert verify_webhook(SECRET, headers, "1") == 1


@pytest.mark.parametrize("secrets", ["", "whsec_", "whsec_not base64!", [], [SECRET, ""], "whsec_\u00e9"])
def test_a_wrong_secret_is_an_error_of_the_configuration(secrets: Any) -> None:
    with pytest.raises(ValueError, match="whsec_ and base64"):
        verify_webhook(secrets, sign_webhook(SECRET, "1", id="1"), "1")
