/** One channel of the client: its position across connections, and who listens. Shared by all of its handles. */

import type { FanwayError } from "./errors.js";
import { Feed } from "./feed.js";
import type { HistoryPage } from "./history.js";
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

export const messageOf = <Data>({ type: _type, message: id, ...rest }: MessagePush): Message<Data> =>
  ({ ...rest, id }) as Message<Data>;

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
  /**
   * Aborts when the answer would have no effect any more: the connection ended, another gap came, or the channel was let
   * go of. Pass it to `fetch`: a request that ends late must not replace the state that a later one has loaded.
   */
  signal: AbortSignal;
}

/** Loads the state that a channel describes; return the position at which it was read, if it is known. */
export type LoadState = (request: LoadRequest) => Promise<{ position?: string } | void> | { position?: string } | void;

export interface ChannelOptions {
  /** How many of the last messages to begin with; for a handle that comes later, too. */
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
  _onMessage(message: Message): void;
  _onEvent(type: SinkEvent, event: unknown): void;
  /** Whether messages reach the application here, and gaps do not. */
  _missesGaps(): boolean;
  /** Return the loop with the most messages that it is not done with, or *than* if that has more. */
  _slowest(than: Lag | undefined): Lag | undefined;
}

/** How far a `for await` loop is behind. */
export interface Lag {
  /** Messages that it is not done with. */
  _behind: number;
  /** The id of the last message that it was done with. */
  _handled: string | undefined;
}

export interface SubscriptionOwner {
  /** Subscribe again from its position, which is older or newer than what was received. */
  _resubscribe(subscription: Subscription): void;
  /** Return one page of the channel's history, the oldest first, or the newest with `reverse`. */
  _history(channel: string, page: HistoryPage): Promise<Message[]>;
  /** Call *callback* after a random delay, which grows with *attempt*; not if the client stops before. */
  _retry(callback: () => void, attempt: number): void;
  /** Messages were handled. */
  _onHandled(): void;
  _onError(error: unknown): void;
}

export class Subscription {
  state: SubscriptionState = "pending";
  /** The id of the last message that was handled; `since` of the next subscribe. */
  position: string | undefined;
  /** The id of the last message that arrived; ahead of `position` while every feed holds its messages. */
  _received: string | undefined;
  token: string | undefined;
  /** Why it is `gone`. */
  error: FanwayError | undefined;
  /** Rejections in a row. */
  _attempts = 0;
  /** Whether a delay or a channel token is waited for, so that no `connect` may name the channel. */
  _paused = false;
  /** Whether the server subscribed this client by itself. */
  _byServer = false;
  readonly _feeds = new Map<Sink, Feed>();
  /** What the users of the channel asked for, together. */
  options: ChannelOptions;

  constructor(
    readonly channel: string,
    options: ChannelOptions,
    readonly _owner: SubscriptionOwner,
  ) {
    this.options = { ...options };
  }

  /** Return the options of `subscribe`, and of the entry in `connect`. */
  _resume(): Record<string, unknown> {
    const { rewind, loadState } = this.options;
    const { token, position: since } = this;
    return { token, since, rewind: since || loadState ? undefined : rewind };
  }

  /** Deliver to *sink* from now on; one that comes later than others gets its own state, or its own rewind, first. */
  _attach(sink: Sink, options: ChannelOptions): void {
    const { rewind = 0 } = options;
    const begun = this.state === "live" || this.position;
    const feed = new Feed(this, sink, options, rewind > (begun ? 0 : this.options.rewind ?? 0));
    this._feeds.set(sink, feed);
    if (this.state === "live") feed._begin();
  }

  _detach(sink: Sink): void {
    this._feeds.get(sink)?._cancel();
    this._feeds.delete(sink);
  }

  _setState(state: SubscriptionState, error?: FanwayError): void {
    this.error = error;
    if (this.state === state) return;
    this.state = state;
    this._emit("state", { channel: this.channel, state, error });
  }

  _onSubscribed(reply: Subscribed): void {
    const since = this.position;
    const missed = since && !reply.recovered;
    this._attempts = 0;
    this._paused = false;
    this._setState("live");
    this._received = since ?? reply.position; // where what is loaded joins
    if (missed) this._onGap("not_recovered", reply.position);
    else for (const feed of [...this._feeds.values()]) feed._begin();
    this._received = since; // the last message of a rewind is the position itself
    for (const message of reply.messages) this._onMessage(message);
    this._advance(reply.position);
    if (reply.members) this._emit("members", reply.members);
  }

  _onPush(push: ServerMessage): void {
    if (this.state !== "live") return; // of a subscription that ended before this one began
    if (push.type === "message") this._onMessage(push as unknown as MessagePush);
    else if (push.type === "gap") this._onGap(push.reason, push.position);
    else if (push.member) this._emit(push.type as "join", push.member);
  }

  _onDisconnected(): void {
    for (const feed of this._feeds.values()) feed._onDisconnected();
    this._received = this.position; // what was held comes again
    if (this.state === "live") this._setState("pending");
  }

  /** Whether no feed delivers what arrives. */
  get _holding(): boolean {
    return this._feeds.size > 0 && [...this._feeds.values()].every((feed) => feed._holding);
  }

  /** Go on after *position*, which the gateway alone can join exactly. */
  _rejoin(position: string): void {
    this.position = position;
    this.state = "pending";
    this._owner._resubscribe(this);
  }

  /** The id of the last message that every handle has handled; loops may be behind `position`. */
  get _handled(): string | undefined {
    let slowest: Lag | undefined;
    for (const sink of this._feeds.keys()) slowest = sink._slowest(slowest);
    return slowest?._behind ? slowest._handled : this.position;
  }

  private _onMessage(push: MessagePush): void {
    const id = push.message;
    if (id && id === this._received) return;
    const message = messageOf(push);
    for (const feed of [...this._feeds.values()]) feed._onMessage(message);
    if (id) this._advance(id);
  }

  /** Everything up to *id* has arrived, and is handled by whoever does not hold it. */
  _advance(id: string | undefined): void {
    this._received = id;
    if (this._holding) return;
    this.position = id;
    this._owner._onHandled();
  }

  private _onGap(reason: string, position: string | undefined): void {
    if (position) this.position = this._received = position;
    const feeds = [...this._feeds.values()];
    const missed = feeds.some((feed) => feed._missesGaps());
    this._emit("gap", { channel: this.channel, reason } satisfies Gap);
    for (const feed of feeds) feed._onGap();
    if (missed) this._owner._onError(new Error(`messages of ${this.channel} are missing (${reason}), and nothing listens to "gap"`));
  }

  private _emit(type: SinkEvent, event: unknown): void {
    for (const sink of [...this._feeds.keys()]) sink._onEvent(type, event);
  }
}
