"""Changes one rule of the client at a time, and checks that the scenarios or the random lives notice.

`.venv/bin/python -m tests.clients.python.mutations` takes ten minutes or more, and is no part of `make
test`. With words as arguments it tries only the mutations whose file, or whose text, has one of them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
TESTS = tuple(
    f"tests/clients/python/test_{name}.py" for name in ("conformance", "handles", "properties", "positions")
)

MUTATIONS = [
    # The state machine: backoff, close codes, transitions.
    ("_protocol/client.py", "2.0 ** min(", "3.0 ** min("),
    ("_protocol/client.py", "self.connected, self.attempt = reply, 0", "self.connected = reply"),
    (
        "_protocol/client.py",
        "if backoff is Backoff.ANNOUNCED and self._announced",
        "if False and self._announced",
    ),
    ("_protocol/client.py", "self._decision = self._announced_seconds = None", "self._decision = None"),
    ("_protocol/client.py", "Retry(max(at_least, after + delay)", "Retry(max(at_least, delay)"),
    ("_protocol/client.py", "if status == 429 or status >= 500:", "if status >= 500:"),
    ("_protocol/client.py", "max(_retry_after(error), delay)", "delay"),
    ("_protocol/client.py", "STOP_UNTIL_NEW_TOKEN and not self._fresh_token", "STOP_UNTIL_NEW_TOKEN"),
    (
        "_protocol/client.py",
        "if self.position is None:\n            return Resume(token",
        "if True:\n            return Resume(token",
    ),
    ("_protocol/errors.py", "CloseCode.DISCONNECTED: Close(", "4999: Close("),
    # The connection.
    ("connection.py", "elif now < due + LATE_SECONDS:", "elif True:"),
    ("connection.py", "if self._environment.online():", "if True:"),
    ("connection.py", "self._start_timer(ANSWER_SECONDS, ", "self._start_timer(ANSWER_SECONDS * 2, "),
    ("connection.py", 'self._send({"type": "pong"})', "pass"),
    ("connection.py", "max(retry_after, told or 0.0)", "retry_after"),
    ("connection.py", "self._endpoint += delay is None", "pass"),
    ("connection.py", "        self._lost_at = None\n        self.connects", "        self.connects"),
    (
        "connection.py",
        "        if not self._hidden:\n            self._start",
        "        if True:\n            self._start",
    ),
    ("connection.py", "            link.close()\n", "            pass\n"),
    ("connection.py", "        for _, on_error in replies.values():\n            on_error(error)\n", ""),
    ("connection.py", "            if self._tokens.expired:\n                self._refresh()\n", ""),
    ("connection.py", '"unauthorized" if refused else "expired"', '"expired"'),
    ("connection.py", "if not self.connected or self._probe_timer is not None:", "if not self.connected:"),
    (
        "connection.py",
        "        self._last_heard = self._environment.now()\n        if self._probe",
        "        if self._probe",
    ),
    # Tokens.
    ("tokens.py", "self._expires_at - self._environment.now() < MARGIN_SECONDS", "False"),
    ("tokens.py", "        if len(self._waiting) == 1:\n            ", "        if True:\n            "),
    (
        "tokens.py",
        'if self.current is None:\n            return "connect"',
        "if False:\n            return None",
    ),
    # One subscription.
    ("subscription.py", "if id is not None and id == self.position:", "if False:"),
    ("subscription.py", 'if since is not None and not received.get("recovered"):', "if False:"),
    ("subscription.py", "        if id is not None:\n            self._keep(id)\n", ""),
    (
        "subscription.py",
        '        if self.state != "live":\n            return  # of',
        "        if False:\n            return  # of",
    ),
    (
        "subscription.py",
        "        if position is not None or reason == NOT_RECOVERED:\n            self._keep(position)\n",
        "",
    ),
    ("subscription.py", "held if known else held[ids.index(position) + 1 :]", "held"),
    ("subscription.py", "        self._keep(since)\n        for late", "        for late"),
    (
        "subscription.py",
        "        self._loads += 1\n        if self.position is None:",
        "        if self.position is None:",
    ),
    (
        "subscription.py",
        "        if self._held is not None:\n            return self._hold(push)\n        id =",
        "        id =",
    ),
    ("subscription.py", '            self._load("gap", position)\n', "            pass\n"),
    (
        "subscription.py",
        "        if position is not None:\n            self._keep(position)\n        for push",
        "        for push",
    ),
    # All subscriptions.
    ("subscriptions.py", "                subscription.paused\n                or ", "                "),
    ("subscriptions.py", "or subscription.options.presence is not None", ""),
    ("subscriptions.py", "        if subscription.sinks or self._by_channel", "        if self._by_channel"),
    ("subscriptions.py", "self._machine.remove(channel)\n                self._unsubscribe(channel)", "pass"),
    ("subscriptions.py", "subscription.paused and subscription.state != ", "subscription.state != "),
    ("subscriptions.py", "rewind=options.rewind if older else None", "rewind=options.rewind"),
    ("subscriptions.py", "                and subscription.attempts == 0\n", ""),
    ("subscriptions.py", 'is subscription and subscription.state != "live"', "is subscription"),
    (
        "subscriptions.py",
        '            subscription.paused = False\n            if subscription.state == "gone"',
        '            if subscription.state == "gone"',
    ),
    # Publishes.
    ("publisher.py", 'same_scope = user != "" and ', "same_scope = "),
    ("publisher.py", " and self._user in {None, user}", ""),
    ("publisher.py", "now - entry.sent_at >= self._key_ttl", "False"),
    ("publisher.py", 'if error.code == "rate_limited" and entry.attempts == 0:', "if entry.attempts == 0:"),
    (
        "publisher.py",
        'if error.code == "rate_limited" and entry.attempts == 0:',
        'if error.code == "rate_limited":',
    ),
    (
        "publisher.py",
        "        if entry.retry_timer is not None:\n            entry.retry_timer.cancel()\n        now",
        "        now",
    ),
    (
        "publisher.py",
        "        if entry.sent_at is not None:\n            code, message",
        "        if False:\n            code, message",
    ),
    ("publisher.py", '"key": entry.key}', '"key": self._environment.key()}'),
    # Positions across restarts, and handles that come later.
    (
        "positions.py",
        "        if self._timer is None:\n            self._timer",
        "        if True:\n            self._timer",
    ),
    (
        "positions.py",
        "if saving is None:\n            self._stored = positions",
        "if saving is None:\n            pass",
    ),
    (
        "positions.py",
        "        self.flush()\n        self._stopped = True\n",
        "        self._stopped = True\n",
    ),
    ("positions.py", "if self._store is None or self._stopped:", "if self._store is None:"),
    ("subscriptions.py", "position=self._saved.get(channel) if older else None,", "position=None,"),
    (
        "subscriptions.py",
        "position=self._saved.get(channel) if older else None,",
        "position=self._saved.get(channel),",
    ),
    ("subscriptions.py", "        self._saved.settle(subscription.channel)\n", ""),
    (
        "subscriptions.py",
        "subscription.by_server and not was_used and self._resume_saved(subscription)",
        "False",
    ),
    (
        "subscriptions.py",
        "if has_history and (subscribed or options.rewind != rewind):",
        "if has_history and subscribed:",
    ),
    ("subscriptions.py", "if error.code not in {CONNECTION_LOST, NOT_CONNECTED}:", "if True:"),
    ("subscription.py", "            return min(unfinished)[1]\n", "            return self.position\n"),
    ("subscription.py", "self.position if self._left is None else self._left[1]", "self.position"),
    (
        "subscription.py",
        "        if not any(sink.consumes() for sink in self.sinks):\n",
        "        if True:\n",
    ),
    (
        "subscription.py",
        "        self._left = None\n\n    def on_consumer_left",
        "        pass\n\n    def on_consumer_left",
    ),
    ("subscription.py", "            held = held[ids.index(newest) + 1 :]\n", "            pass\n"),
    ("subscription.py", "elif newest is not None and newest not in self.passed:", "elif False:"),
    ("subscription.py", "        if self._held is not None:\n            self._held.clear()\n", ""),
    ("subscription.py", "            late.passed |= {since, position}\n", "            pass\n"),
    ("channel.py", "        if kind is None:\n            self._current = None\n", ""),
    (
        "channel.py",
        "            self._current = None\n            self._channel.on_handled()\n",
        "            self._current = None\n",
    ),
    # The end of the client.
    ("client.py", "            self._timers.clear()\n", ""),
    ("client.py", "            self._calls.cancel()\n", ""),
    ("client.py", "            self._publisher.stop()\n", ""),
]
"""File, what stands there once, what stands there instead."""


def noticed(folder: Path) -> bool:
    """Return whether a test fails with the client that is in *folder*."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *TESTS]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode not in {0, 1}:
        raise SystemExit(result.stdout + result.stderr)
    return result.returncode == 1


def main(words: list[str]) -> int:
    """Try the mutations; return the exit code."""
    chosen = [each for each in MUTATIONS if not words or any(word in part for word in words for part in each)]
    survivors = []
    with tempfile.TemporaryDirectory() as temporary:
        package = Path(temporary) / "fanway_client"
        shutil.copytree(ROOT / "clients" / "python" / "fanway_client", package)
        if noticed(package.parent):
            raise SystemExit("the tests fail without a change")
        for file, before, after in chosen:
            path = package / file
            text = path.read_text()
            if text.count(before) != 1:
                raise SystemExit(f"{file} has {text.count(before)} times: {before}")
            path.write_text(text.replace(before, after))
            found = noticed(package.parent)
            path.write_text(text)
            print("noticed" if found else "NOT NOTICED", file, repr(before), flush=True)  # noqa: T201
            if not found:
                survivors.append(before)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} changes were noticed")  # noqa: T201
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
