/** One room, which is a channel of the gateway: its messages, its members, and what became of the messages of an absence. */

import type { Channel, Fanway, Gap, Message } from "@fanway/client";
import { LivePresence } from "@fanway/client/presence";
import { Absence, numberOf, type Verdict } from "./absence.js";
import type { Person } from "./views/labels.js";

/** Messages of before that a new window shows. */
const REWIND = 50;

export interface RoomListener {
  /** *isOld* if it was published before this window came; *wasMissed* if this window was away then. */
  onMessage(message: Message, flags: { isOld: boolean; wasMissed: boolean }): void;
  onGap(gap: Gap): void;
  onVerdict(verdict: Verdict): void;
  /** The gateway refused or ended the subscription. */
  onGone(reason: string): void;
  onMembers(members: readonly Person[]): void;
  onMember(kind: "joined" | "left", member: Person): void;
}

export class Room {
  /** The number of the newest message that this page has. */
  newest = 0;
  private readonly _channel: Channel;
  private readonly _presence: LivePresence;
  private _absence: Absence | undefined;
  /** Whether what arrives was published before the subscription. */
  private _rewinding = true;

  constructor(
    fanway: Fanway,
    readonly name: string,
    private readonly _listener: RoomListener,
  ) {
    this._channel = fanway.channel(name, { rewind: REWIND, presence: true });
    this._channel.on("state", ({ state, error }) => {
      if (state === "live") this._onLive();
      else if (state === "gone" && error?.code !== "stopped") _listener.onGone(error?.message ?? "");
    });
    this._channel.on("message", (message) => this._onMessage(message));
    this._channel.on("gap", (gap) => this._onGap(gap));
    this._channel.on("join", (member) => _listener.onMember("joined", member));
    this._channel.on("leave", (member) => _listener.onMember("left", member));
    this._presence = new LivePresence(fanway, name);
    this._presence.onChange(({ members }) => _listener.onMembers([...members.values()]));
  }

  /** The connection was lost: from now on messages are missed. */
  away(): void {
    if (this._channel.position !== undefined) this._absence ??= new Absence(numberOf(this._channel.position));
  }

  close(): void {
    this._channel.close();
    this._presence.close();
  }

  private _onLive(): void {
    // The messages of the reply are delivered in this task.
    setTimeout(() => (this._rewinding = false));
    const absence = this._absence;
    if (!absence) return;
    // Answered after the reply to the subscription: everything up to here was missed, or arrives by itself.
    this._channel
      .history({ pageSize: 1, reverse: true })
      .next()
      .then(({ value }) => {
        absence.returned(value ? numberOf(value.id) : 0);
        this._judge();
      })
      .catch(() => {}); // the connection is lost again: the next one answers
  }

  private _onMessage(message: Message): void {
    const number = numberOf(message.id);
    const flags = { isOld: this._rewinding && !this._absence, wasMissed: this._absence !== undefined };
    this.newest = Math.max(this.newest, number);
    this._absence?.add(number);
    this._listener.onMessage(message, flags);
    this._judge();
  }

  private _onGap(gap: Gap): void {
    const position = numberOf(this._channel.position);
    this.newest = position;
    this._absence?.skip(position);
    this._listener.onGap(gap);
    this._judge();
  }

  private _judge(): void {
    const verdict = this._absence?.verdict();
    if (!verdict) return;
    this._absence = undefined;
    this._listener.onVerdict(verdict);
  }
}
