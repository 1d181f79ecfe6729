"""A locust user on a WebSocket: connects, is heard by its witness, comes back when it is cut off."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, ClassVar

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.lock import RLock
from locust import User
from locust.env import Environment

from loadtests import tokens
from loadtests.campaign import Campaign
from loadtests.client import Client, CommandRefused, Disconnected, Refused
from loadtests.wire import BACKOFF, BACKOFF_LIMIT, CODECS, FINAL, GIVE_UP
from loadtests.witness import Witness


class WireUser(User):
    """Somebody with a connection; what it does there is its subclass's.

    It is its client's ears: what it hears goes to its witness.
    """

    abstract = True
    campaign: ClassVar[Campaign]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.options = self.campaign.options
        self.account = self.campaign.account
        self.index, self.name = self.campaign.enroll(type(self).__name__.lower())
        self.random = Random(f"{self.options.seed} {self.index}")
        self.witness = Witness(self.name, self.account)
        self.client: Client | None = None
        self.token = tokens.mint(self.options.secret, self.name) if self.options.secret else None
        codecs = CODECS[self.options.codec]
        self._codec = codecs[self.index % len(codecs)]
        self._line = RLock()
        self._gone = Event()
        self._leaving = False
        self._code = 0
        self._delay = 0.0

    def on_start(self) -> None:
        """Take part in the campaign."""
        self.campaign.participants[self] = None

    def on_stop(self) -> None:
        """Leave it, with a goodbye."""
        self.campaign.participants.pop(self, None)
        if self.client is not None:
            self._leaving = True
            self.client.close()
        self.witness.leave(cleanly=False)

    # ------------------------------------------------------------ what subclasses call

    def act(self, action: Callable[[], object]) -> None:
        """Do something, connected, unless the run ends; refused and interrupted it is counted, and over."""
        with self.campaign.acting():
            self.come_back()
            if self.campaign.hushed:
                return
            try:
                action()
            except CommandRefused as refused:
                self.refused(refused)
            except Disconnected:
                self.account.counts["interrupted"] += 1

    def refused(self, refused: CommandRefused) -> None:
        """Count a refusal, and wait as long as it says."""
        self.account.error(refused.code, f"{self.name}: {refused}")
        gevent.sleep(refused.retry_after)

    def ask(self, kind: str, **fields: Any) -> Mapping[str, Any]:
        """Send a command, return its reply, and time it; raise `CommandRefused` or `Disconnected`."""
        if self.client is None:
            raise Disconnected("not connected")
        with self.campaign.timed(kind):
            return self.client.ask(kind, **fields)

    def enter(self, *channels: str) -> None:
        """Connect, and follow *channels*."""
        with self._line:
            self._enter("connect", lambda: {channel: {} for channel in channels})

    def vanish(self) -> None:
        """Cut the connection without a word; `come_back` resumes."""
        if self.client is not None:
            self._leaving = True
            self.client.abort()
            self._forget()

    def wait_until_gone(self, seconds: float) -> None:
        """Return when the connection ends, or after so long."""
        self._gone.wait(timeout=seconds)

    # ------------------------------------------------------------ what the campaign calls

    @property
    def is_here(self) -> bool:
        """Whether the connection stands."""
        return self.client is not None and not self._gone.is_set()

    @property
    def whereabouts(self) -> tuple[str, Iterable[str]]:
        """The connection, and the channels that it follows."""
        return self.client.connection if self.client else "", self.witness.channels

    def come_back(self) -> None:
        """Reconnect and resume, if the connection is over; stop if the server said that it is for good."""
        with self._line:
            if self.is_here or self not in self.campaign.participants:
                return
            if self._code in GIVE_UP:
                self._stop(f"closed with {self._code}")
            self._forget()
            gevent.sleep(self.random.uniform(0, self._delay))
            self._enter("resume", self.witness.resume)
            self.account.counts["resumes"] += 1

    def give_up(self) -> None:
        """Count as one who never came back."""
        self.account.fault("adrift", f"{self.name} is not connected when the run ends")
        self.witness.leave(cleanly=False)

    def audit(self) -> None:
        """Check what can be checked once nothing moves any more."""

    # ------------------------------------------------------------ what the client calls

    def asked(self, command: Mapping[str, Any]) -> None:
        """Note a command."""
        self.witness.asked(command)

    def replied(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Take a reply."""
        self.witness.replied(command, reply)

    def pushed(self, push: Mapping[str, Any]) -> None:
        """Take a push."""
        if push["type"] == "reconnect":
            self._delay = push["after_ms"] / 1000
        self.witness.pushed(push)

    def ended(self, code: int) -> None:
        """Note that the connection is over."""
        if not self._leaving:
            self._code = code
            self.account.counts[f"closes.{code}"] += 1
            self.account.fault("disconnects", f"{self.name}: closed with {code}")
        self._gone.set()

    def failed(self, error: BaseException) -> None:
        """Note that what came could not be understood."""
        self.campaign.crashed(self.name, error)

    # ------------------------------------------------------------ inside

    def _enter(self, kind: str, subs: Callable[[], Mapping[str, Any]]) -> None:
        for attempt in itertools.count():
            backoff = self.random.uniform(0, min(BACKOFF * 2**attempt, BACKOFF_LIMIT))
            self._leaving, self._code, self._delay = False, 0, 0.0
            self._gone.clear()
            try:
                with self.campaign.timed(kind):
                    self._connect(kind, subs())
                return
            except Refused as refused:
                self.account.counts[f"refused.{refused.status}"] += 1
                gevent.sleep(refused.retry_after or backoff)
            except CommandRefused as refused:
                self.refused(refused)
                if refused.code in FINAL:
                    self._stop(f"{refused.code} at {kind}")
                gevent.sleep(backoff)
            except (Disconnected, OSError) as error:
                self.account.fault("unreachable", f"{self.name}: {error}")
                gevent.sleep(backoff)

    def _connect(self, kind: str, subs: Mapping[str, Any]) -> None:
        """Connect and restore all channels; what cannot be restored yet is tried again with the rest."""
        fields = {"token": self.token} if self.token else {}
        self.client = Client(self.options.url, self._codec, self)
        try:
            connected = self.client.connect(client={"name": "fanway-loadtests"}, subs=subs, **fields)
            _require_all({"type": kind}, connected["subs"].values())
        except BaseException:
            self._leaving = True
            self.client.abort()
            self.client = None
            raise

    def _stop(self, why: str) -> None:
        self.campaign.participants.pop(self, None)
        self.account.fault("adrift", f"{self.name} stopped: {why}")
        # Locust's StopUser, from where users start, would be an error with a traceback for each of them.
        raise GreenletExit

    def _forget(self) -> None:
        if self.client is not None:
            self.campaign.departed.add(self.client.connection)
            self.client.abort()
            self.client = None

    def __repr__(self) -> str:
        return f"<{self.name} {self.client}>"

    __str__ = __repr__


def _require_all(command: Mapping[str, Any], answers: Iterable[Mapping[str, Any]]) -> None:
    """Raise `CommandRefused` where a channel could not be restored, but may be later."""
    for answer in answers:
        if answer["type"] == "error" and answer["code"] not in FINAL:
            raise CommandRefused(command, answer)
