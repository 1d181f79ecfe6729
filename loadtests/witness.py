"""One user's ears: turns what its client hears into entries of the account, across all of its connections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from loadtests import payload
from loadtests.account import DELIVERY, REPLAY, Account
from loadtests.roster import Roster
from loadtests.track import Track
from loadtests.wire import FINAL


class Witness:
    """What one user follows, up to where it heard it, and who else is there.

    Its methods are called in the order of the frames: what follows a `subscribed` is heard after it.
    """

    def __init__(self, name: str, account: Account) -> None:
        self.name = name
        self.account = account
        self.since: dict[str, str | None] = {}
        """The newest message id of each channel that is followed: what a resume hands back."""
        self.rosters: dict[str, Roster] = {}
        self._tracks: dict[str, Track] = {}
        self._own: dict[str, int] = {}
        """The place of the newest of its own messages, which a user hears as everybody else does."""

    @property
    def channels(self) -> Iterable[str]:
        """The channels that are followed."""
        return self._tracks.keys()

    def resume(self) -> dict[str, dict[str, str]]:
        """Return the `subs` that restore everything followed."""
        return {channel: {"since": since} if since else {} for channel, since in self.since.items()}

    def published(self, channel: str, place: int | None) -> None:
        """Note that this user published a message itself, at *place*."""
        self._own[channel] = max(place or 0, self._own.get(channel, 0))

    def heard_itself(self, channel: str) -> bool:
        """Whether everything that this user published has come back to it, or will not any more."""
        track = self._tracks.get(channel)
        return track is None or track.heard(self._own.get(channel, 0))

    def leave(self, *, cleanly: bool) -> None:
        """Stop following everything; *cleanly*: it waited for its own messages first."""
        for channel in list(self._tracks):
            self._end(channel, cleanly=cleanly)

    # ------------------------------------------------------------ what a client calls

    def asked(self, command: Mapping[str, Any]) -> None:
        """Note a command that is sent."""
        if command["type"] in {"subscribe", "presence"} and command.get("members"):
            self.rosters.setdefault(command["channel"], Roster()).ask()

    def replied(self, command: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Take the reply to *command*."""
        match reply["type"]:
            case "connected":
                # Of what the server adds, a personal channel, nobody here publishes to any.
                for channel, asked in command["subs"].items():
                    self._restored(channel, asked, reply["subs"][channel])
            case "subscribed":
                self._subscribed(reply, since=command.get("since"))
            case "unsubscribed":
                self._end(reply["channel"], cleanly=True)
            case "presence" if command.get("members"):
                self.rosters[reply["channel"]].answer(_connections(reply))

    def pushed(self, push: Mapping[str, Any]) -> None:
        """Take what the server says of its own accord."""
        match push["type"]:
            case "message":
                self._message(push, DELIVERY)
            case "join" | "leave" if roster := self.rosters.get(push["channel"]):
                roster.change(push["member"]["connection"], present=push["type"] == "join")
            case "gap":
                self._gap(push)
            case "subscribed":
                self._subscribed(push, since=None)
            case "unsubscribed":
                self.account.error("unsubscribed", f"{self.name} on {push['channel']}: {push.get('reason')}")
                self._end(push["channel"], cleanly=False)
            case "error":
                self.account.error(push["code"], f"{self.name}, of its own accord: {push['message']}")
            case kind:
                self.account.counts[f"pushes.{kind}"] += 1

    # ------------------------------------------------------------ inside

    def _restored(self, channel: str, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        if answer["type"] == "error" and answer["code"] not in FINAL:
            return  # it is followed still, and will be restored later
        if answer["type"] == "error":
            self.account.error(answer["code"], f"{self.name} restores {channel}: {answer['message']}")
            self._end(channel, cleanly=False)
        else:
            # Who came and went in between, nobody told: it is to be asked anew.
            self.rosters[channel] = Roster()
            self._subscribed(answer, since=asked.get("since"))

    def _subscribed(self, answer: Mapping[str, Any], *, since: str | None) -> None:
        channel, position = answer["channel"], answer.get("position")
        track = self._tracks.get(channel)
        if track is None:
            track = self._tracks[channel] = self.account.ledger.follow(self.name, channel, position)
            self._own.pop(channel, None)
        elif answer["recovered"]:
            self.account.counts["recovered"] += 1
            for message in answer["messages"]:
                self._message(message, REPLAY)
            self.account.ledger.reached(track, position)
        else:
            if since is not None:
                self.account.fault(
                    "unrecovered", f"{self.name} on {channel} since {since}, now at {position}"
                )
            self.account.ledger.was_told(track, position)
        self.since[channel] = position
        if "members" in answer:
            self.rosters[channel].answer(_connections(answer))

    def _message(self, message: Mapping[str, Any], kind: str) -> None:
        channel, message_id = message["channel"], message.get("message")
        track, letter = self._tracks.get(channel), payload.read(message["data"])
        if track is None or letter is None:
            whose = "of a channel that it does not follow" if track is None else "that no load test wrote"
            self.account.error("unasked", f"{self.name} got {message_id} on {channel}, a message {whose}")
            return
        self.account.ledger.arrived(track, letter.by, letter.number, message_id)
        self.since[channel] = message_id
        if letter.age is None:
            return
        self.account.timings[kind].record(letter.age)
        if kind == DELIVERY and letter.age > self.account.late_bound:
            track.was_late(letter.by, letter.number, track.last)

    def _gap(self, gap: Mapping[str, Any]) -> None:
        channel, position = gap["channel"], gap.get("position")
        self.account.fault("gaps", f"{self.name} on {channel}: {gap['reason']}, goes on after {position}")
        if track := self._tracks.get(channel):
            self.account.ledger.was_told(track, position)
            self.since[channel] = position

    def _end(self, channel: str, *, cleanly: bool) -> None:
        self.since.pop(channel, None)
        self.rosters.pop(channel, None)
        own = self._own.pop(channel, None)
        if track := self._tracks.pop(channel, None):
            self.account.ledger.leave(track, own if cleanly else None)

    def __repr__(self) -> str:
        return f"<Witness {self.name} of {', '.join(self.channels)}>"


def _connections(answer: Mapping[str, Any]) -> list[str]:
    return [member["connection"] for member in answer["members"]]
