/** One channel of the client: its position across connections, and who listens. Shared by all of its handles. */

import type { FanwayError } from "./errors.js";
import type { MessagePush, ServerMessage, Subscribed } from "./wire.js";

/**
 * - `idle`: nobody listens.
 * - `pending`: not subscribed yet, or not any more; the client subscribes as soon as it can.
 * - `live`: messages arrive.
 * - `gone`: the gateway refused or ended the subscription; see `error`.
 */
export type SubscriptionState = "idle" | "pending" | "live" | "gone";

export interface Message<Data = unknown> {
  channel: string;
  /** The message id; absent where the channel keeps no history. */
  id?: string;
  data: Data;
  /** The client that published it; absent if a backend did. */
  from?: { connection: string; user: string };
  tags?: Record<string, string>;
  /** When the gateway accepted it, in milliseconds since 1970. */
  time?: number;
}

export const messageOf = <Data>(push: MessagePush): Message<Data> => ({
  channel: push.channel,
  ...(push.message !== undefined && { id: push.message }),
  data: push.data as Data,
  ...(push.from && { from: push.from }),
  ...(push.tags && { tags: push.tags }),
  ...(push.time !== undefined && { time: push.time }),
});

export interface Gap {
  channel: string;
  /** `not_recovered` after a connection that was lost, else what the gateway says: `overflow`, `trimmed`, `reset`. */
  reason: string;
}

export interface LoadRequest {
  channel: string;
  /** The position of the channel when the subscription began; absent where it keeps no history. */
  position?: string;
  reason: "first" | "gap";
}

/** Loads the state that a channel describes; return the position at which it was read, if it is known. */
export type LoadState = (request: LoadRequest) => Promise<{ position?: string } | void> | { position?: string } | void;

export interface ChannelOptions {
  /** How many of the last messages to begin with. */
  rewind?: number;
  /** Whether joins and leaves are pushed; without it the channel's configuration decides. */
  presence?: boolean;
  loadState?: LoadState;
  /** Whether the channel wants a channel token; `getChannelTokens` of the client fetches it. */
  token?: boolean;
  /** Messages that wait for a slow `for await` loop, before it ends with `overflow`; 1,000 by default. */
  buffer?: number;
}

export type SinkEvent = "gap" | "members" | "join" | "leave" | "update" | "state";

/** Who listens to a subscription. */
export interface Sink {
  onMessage(message: Message): void;
  onEvent(type: SinkEvent, event: unknown): void;
  /** Whether messages reach the application here, and gaps do not. */
  missesGaps(): boolean;
}

export interface SubscriptionOwner {
  /** Subscribe again from *since*, which is older or newer than what was received. */
  resubscribe(subscription: Subscription): void;
  retry(callback: () => void, attempt: number): void;
  onError(error: unknown): void;
}

/** Messages that are held while `loadState` runs, before they are dropped and the state is loaded once more. */
const MAX_HELD = 1_000;

export class Subscription {
  state: SubscriptionState = "pending";
  /** The id of the last message that was handled; `since` of the next subscribe. */
  position: string | undefined;
  token: string | undefined;
  /** Why it is `gone`. */
  error: FanwayError | undefined;
  /** Rejections in a row. */
  attempts = 0;
  /** Whether a delay or a channel token is waited for, so that no `connect` may name the channel. */
  paused = false;
  /** Whether the server subscribed this client by itself. */
  byServer = false;
  readonly sinks = new Set<Sink>();
  /** What the users of the channel asked for, together. */
  options: ChannelOptions;
  /** Messages that wait for `loadState`. */
  private _held: MessagePush[] | undefined;
  private _loads = 0;
  private _heldTooMuch = false;
  /** Why `loadState` has to be called, or is being called; undefined where the application has the state. */
  private _unloaded: LoadRequest["reason"] | undefined = "first";

  constructor(
    readonly channel: string,
    options: ChannelOptions,
    private readonly _owner: SubscriptionOwner,
  ) {
    this.options = { ...options };
  }

  /** Return the options of `subscribe`, and of the entry in `connect`. */
  resume(): Record<string, unknown> {
    const { rewind, loadState } = this.options;
    return {
      ...(this.token !== undefined && { token: this.token }),
      ...(this.position !== undefined ? { since: this.position } : rewind !== undefined && !loadState && { rewind }),
    };
  }

  setState(state: SubscriptionState, error?: FanwayError): void {
    this.error = error;
    if (this.state === state) return;
    this.state = state;
    this._emit("state", { channel: this.channel, state, error });
  }

  onSubscribed(reply: Subscribed): void {
    const missed = this.position !== undefined && !reply.recovered;
    this.attempts = 0;
    this.paused = false;
    this.setState("live");
    if (missed) this._onGap("not_recovered", reply.position);
    else if (this._unloaded && this.options.loadState) this._load(this._unloaded, this.position ?? reply.position);
    for (const message of reply.messages) this._onMessage(message);
    if (!this._held) this.position = reply.position;
    if (reply.members) this._emit("members", reply.members);
  }

  onPush(push: ServerMessage): void {
    if (this.state !== "live") return; // of a subscription that ended before this one began
    if (push.type === "message") this._onMessage(push as unknown as MessagePush);
    else if (push.type === "gap") this._onGap(push.reason, push.position);
    else if (push.member) this._emit(push.type as "join", push.member);
  }

  onDisconnected(): void {
    this._held = undefined; // they come again: the position is before them
    this._loads++;
    if (this.position === undefined) this._unloaded ??= "gap"; // without history nobody can say what was missed
    if (this.state === "live") this.setState("pending");
  }

  private _onMessage(push: MessagePush): void {
    if (this._held) return this._hold(push);
    const id = push.message;
    if (id !== undefined && id === this.position) return;
    this._deliver(push);
    if (id !== undefined) this.position = id;
  }

  private _deliver(push: MessagePush): void {
    const message = messageOf(push);
    for (const sink of [...this.sinks]) sink.onMessage(message);
  }

  private _onGap(reason: string, position: string | undefined): void {
    this._held = undefined;
    if (position !== undefined) this.position = position;
    const missed = [...this.sinks].some((sink) => sink.missesGaps());
    this._emit("gap", { channel: this.channel, reason } satisfies Gap);
    if (this.options.loadState) this._load("gap", position);
    else if (missed)
      this._owner.onError(new Error(`messages of ${this.channel} are missing (${reason}), and nothing listens to "gap"`));
  }

  private _emit(type: SinkEvent, event: unknown): void {
    for (const sink of [...this.sinks]) sink.onEvent(type, event);
  }

  // ---------------------------------------------------------------- loadState

  /** Hold messages while the state is loaded, then deliver those that the state does not have. */
  private _load(reason: "first" | "gap", position: string | undefined, attempt = 0): void {
    this._held = [];
    this._heldTooMuch = false;
    this._unloaded = reason;
    if (position !== undefined) this.position = position;
    const load = ++this._loads;
    const current = () => load === this._loads;
    const request: LoadRequest = { channel: this.channel, reason, ...(position !== undefined && { position }) };
    (async () => this.options.loadState!(request))().then(
      (loaded) => current() && this._onLoaded(loaded?.position),
      (error: unknown) => {
        if (!current()) return;
        this._owner.onError(error);
        this._owner.retry(() => current() && this._load(reason, this._newest(), attempt + 1), attempt);
      },
    );
  }

  /** The id of the newest message that was received; what is held before it need not be held for another load. */
  private _newest(): string | undefined {
    return this._held?.[this._held.length - 1]?.message ?? this.position;
  }

  private _hold(push: MessagePush): void {
    if (this._held!.length < MAX_HELD) this._held!.push(push);
    else {
      this._heldTooMuch = true;
      this._held!.splice(0, MAX_HELD - 1, push);
    }
  }

  private _onLoaded(position: string | undefined): void {
    const held = this._held!;
    if (this._heldTooMuch) return this._load("gap", this._newest());
    this._held = undefined;
    this._unloaded = undefined;
    const known = position === undefined || position === this.position;
    const index = held.findIndex((message) => message.message === position);
    if (!known && index < 0) {
      // Read before the subscription, or of messages that have not arrived yet: only the gateway can join it exactly.
      this.position = position;
      this.state = "pending";
      return this._owner.resubscribe(this);
    }
    if (position !== undefined) this.position = position;
    for (const message of held.slice(known ? 0 : index + 1)) this._onMessage(message);
  }
}
