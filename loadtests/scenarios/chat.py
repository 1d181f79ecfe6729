"""Chat: people who join a channel, talk, look around, move on, drop off the net and come back."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
from locust import task

from loadtests import payload
from loadtests.campaign import Campaign, Shape
from loadtests.client import CommandRefused, Disconnected
from loadtests.numbering import split
from loadtests.options import PROFILES
from loadtests.users import WireUser

TALK, CUT_OFF, LOOK, REREAD, MOVE, VANISH = 20, 1, 2, 1, 1, 2
"""How often people do each."""

SPEAKING = (TALK + CUT_OFF) / (TALK + CUT_OFF + LOOK + REREAD + MOVE + VANISH)
ATTEMPTS = 3
AWAY = 1.0
"""Seconds that somebody stays away at most who has dropped off."""

PATIENCE = 10.0
"""Seconds that somebody waits at most to hear its own words before it leaves."""

REREAD_MESSAGES = 20

campaign = Campaign("chat", PROFILES["minutes"]["chat"])


class Person(WireUser):
    """In one channel at a time; with a token it repeats what got no answer, under the same key."""

    campaign = campaign

    def on_start(self) -> None:
        """Connect, and join a channel."""
        super().on_start()
        self.channel = self.random.choice(self.options.channel_names())
        self.enter()
        self.act(lambda: None)

    def act(self, action: Callable[[], object]) -> None:
        """Do something where it belongs: whoever was refused a channel tries again first."""
        super().act(lambda: self._in_place(action))

    def wait_time(self) -> float:
        """Return a pause such that all people together publish at the rate that was asked for."""
        people = max(1, self.environment.runner.target_user_count if self.environment.runner else 1)
        return self.random.expovariate(self.options.rate / people / SPEAKING)

    @task(TALK)
    def talk(self) -> None:
        """Say something, and wait until it is published."""
        self.act(lambda: self._say(cut_off=False))

    @task(CUT_OFF)
    def cut_off(self) -> None:
        """Say something, and drop off before the answer comes."""
        self.act(lambda: self._say(cut_off=True))

    @task(LOOK)
    def look(self) -> None:
        """Ask who is here."""
        self.act(self._look)

    @task(REREAD)
    def reread(self) -> None:
        """Read what was said last."""
        self.act(self._reread)

    @task(MOVE)
    def move(self) -> None:
        """Leave, and join another channel."""
        self.act(self._move)

    @task(VANISH)
    def drop_off(self) -> None:
        """Lose the connection, come back after a while, and resume."""
        self.act(self._drop_off)

    def audit(self) -> None:
        """Compare who is here by the server's word, by its pushes, and in truth."""
        if self.channel not in self.witness.channels:
            return
        roster = self.witness.rosters[self.channel]
        known, heard = roster.known, set(roster.connections)
        listed = self._look()
        here = self.campaign.present(self.channel)
        self._compare("absent", here - listed)
        self._compare("ghosts", listed & self.campaign.departed)
        if known:
            self._compare("stale", heard ^ listed)
        self.account.counts["presence.checked"] += 1

    # ------------------------------------------------------------ inside

    def _in_place(self, action: Callable[[], object]) -> None:
        if self.channel not in self.witness.channels:
            self._join()
        action()

    def _join(self) -> None:
        self.ask("subscribe", channel=self.channel, members=True, join_leave=True)

    def _say(self, *, cut_off: bool) -> None:
        number = self.account.ledger.attempt(self.channel, self.name)
        words = {
            "channel": self.channel,
            "data": payload.write(self.name, number, size=self.options.size),
            "key": f"{self.options.run}-{number}",
        }
        if cut_off and self.client is not None:
            self.client.send("publish", **words)
            self._drop_off()
            if self.token is None:
                return
        for _ in range(ATTEMPTS):
            try:
                message = self.ask("publish", **words).get("message")
                place = self.account.ledger.acknowledge(self.channel, self.name, number, message)
                self.witness.published(self.channel, place)
                return
            except CommandRefused as refused:
                self.refused(refused)
            except Disconnected:
                self.come_back()
            if self.token is None:
                # An anonymous connection's keys end with it: said again, it would be said twice.
                return

    def _look(self) -> set[str]:
        answer = self.ask("presence", channel=self.channel, members=True)
        return {member["connection"] for member in answer["members"]}

    def _reread(self) -> None:
        messages = self.ask("history", channel=self.channel, limit=REREAD_MESSAGES, reverse=True)["messages"]
        offsets = [split(message["message"])[0] for message in messages if "message" in message]
        if offsets != list(range(offsets[0], offsets[0] - len(offsets), -1) if offsets else ()):
            self.account.error("history", f"{self.name} read {offsets} in {self.channel}")

    def _move(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.witness.heard_itself(self.channel) and time.monotonic() < deadline:
            gevent.sleep(0.01)
        self.ask("unsubscribe", channel=self.channel)
        self.channel = self.random.choice(self.options.channel_names())
        self._join()

    def _drop_off(self) -> None:
        self.vanish()
        gevent.sleep(self.random.uniform(0, AWAY))
        self.come_back()
        if self.channel in self.witness.channels:
            self._look()

    def _compare(self, kind: str, connections: set[str]) -> None:
        for connection in sorted(connections):
            self.account.fault(f"presence.{kind}", f"{connection} in {self.channel}, as {self.name} sees it")


class ChatShape(Shape):
    """People as planned."""
