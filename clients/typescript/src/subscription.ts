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
  private held: MessagePush[] | undefined;
  private loads = 0;
  private heldTooMuch = false;
  /** Why `loadState` has to be called, or is being called; undefined where the application has the state. */
  private unloaded: LoadRequest["reason"] | undefined = "first";

  constructor(
    readonly channel: string,
    options: ChannelOptions,
    private readonly owner: SubscriptionOwner,
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
    this.emit("state", { channel: this.channel, state, error });
  }

  onSubscribed(reply: Subscribed): void {
    const missed = this.position !== undefined && !reply.recovered;
    this.attempts = 0;
    this.paused = false;
    this.setState("live");
    if (missed) this.onGap("not_recovered", reply.position);
    else if (this.unloaded && this.options.loadState) this.load(this.unloaded, this.position ?? reply.position);
    for (const message of reply.messages) this.onMessage(message);
    if (!this.held) this.position = reply.position;
    if (reply.members) this.emit("members", reply.members);
  }

  onPush(push: ServerMessage): void {
    if (this.state !== "live") return; // of a subscription that ended before this one began
    if (push.type === "message") this.onMessage(push as unknown as MessagePush);
    else if (push.type === "gap") this.onGap(push.reason, push.position);
    else if (push.member) this.emit(push.type as "join", push.member);
  }

  onDisconnected(): void {
    this.held = undefined; // they come again: the position is before them
    this.loads++;
    if (this.position === undefined) this.unloaded ??= "gap"; // without history nobody can say what was missed
    if (this.state === "live") this.setState("pending");
  }

  private onMessage(push: MessagePush): void {
    if (this.held) return this.hold(push);
    const id = push.message;
    if (id !== undefined && id === this.position) return;
    this.deliver(push);
    if (id !== undefined) this.position = id;
  }

  private deliver(push: MessagePush): void {
    const message = messageOf(push);
    for (const sink of [...this.sinks]) sink.onMessage(message);
  }

  private onGap(reason: string, position: string | undefined): void {
    this.held = undefined;
    if (position !== undefined) this.position = position;
    const missed = [...this.sinks].some((sink) => sink.missesGaps());
    this.emit("gap", { channel: this.channel, reason } satisfies Gap);
    if (this.options.loadState) this.load("gap", position);
    else if (missed)
      this.owner.onError(new Error(`messages of ${this.channel} are missing (${reason}), and nothing listens to "gap"`));
  }

  private emit(type: SinkEvent, event: unknown): void {
    for (const sink of [...this.sinks]) sink.onEvent(type, event);
  }

  // ---------------------------------------------------------------- loadState

  /** Hold messages while the state is loaded, then deliver those that the state does not have. */
  private load(reason: "first" | "gap", position: string | undefined, attempt = 0): void {
    this.held = [];
    this.heldTooMuch = false;
    this.unloaded = reason;
    if (position !== undefined) this.position = position;
    const load = ++this.loads;
    const current = () => load === this.loads;
    const request: LoadRequest = { channel: this.channel, reason, ...(position !== undefined && { position }) };
    (async () => this.options.loadState!(request))().then(
      (loaded) => current() && this.onLoaded(loaded?.position),
      (error: unknown) => {
        if (!current()) return;
        this.owner.onError(error);
        this.owner.retry(() => current() && this.load(reason, this.newest(), attempt + 1), attempt);
      },
    );
  }

  /** The id of the newest message that was received; what is held before it need not be held for another load. */
  private newest(): string | undefined {
    return this.held?.[this.held.length - 1]?.message ?? this.position;
  }

  private hold(push: MessagePush): void {
    if (this.held!.length < MAX_HELD) this.held!.push(push);
    else {
      this.heldTooMuch = true;
      this.held!.splice(0, MAX_HELD - 1, push);
    }
  }

  private onLoaded(position: string | undefined): void {
    const held = this.held!;
    if (this.heldTooMuch) return this.load("gap", this.newest());
    this.held = undefined;
    this.unloaded = undefined;
    const known = position === undefined || position === this.position;
    const index = held.findIndex((message) => message.message === position);
    if (!known && index < 0) {
      // Read before the subscription, or of messages that have not arrived yet: only the gateway can join it exactly.
      this.position = position;
      this.state = "pending";
      return this.owner.resubscribe(this);
    }
    if (position !== undefined) this.position = position;
    for (const message of held.slice(known ? 0 : index + 1)) this.onMessage(message);
  }
}
