/** All subscriptions of a client: who is subscribed, who waits, and what `connect` restores. */

import type { Connection } from "./connection.js";
import { errorOf } from "./connection.js";
import type { Environment } from "./environment.js";
import { FanwayError, TRANSIENT_CODES } from "./errors.js";
import { history, type HistoryPage } from "./history.js";
import { type ChannelOptions, type Message, type Sink, Subscription, type SubscriptionOwner } from "./subscription.js";
import type { Connected, ServerMessage, Subscribed, UnsubscribedPush } from "./wire.js";

/** Fetches channel tokens: one call for all channels that need one at the same time. */
export type GetChannelTokens = (channels: string[]) => Record<string, string> | Promise<Record<string, string>>;

/** Where an application keeps the positions of its channels, to go on after them in its next life. */
export interface Positions {
  /** Called once, before the first connection. */
  load(): Readonly<Record<string, string>> | null | undefined | Promise<Readonly<Record<string, string>> | null | undefined>;
  /**
   * Called after messages were handled, at most once per task, with the positions by channel. Messages after the last
   * ones that were saved come again in the next life.
   */
  save(positions: Record<string, string>): unknown;
}

/** Codes after which another channel token may help. */
const TOKEN_CODES: ReadonlySet<string> = new Set(["unauthorized", "token_expired", "permission_denied"]);
/** Bytes of `connect` if the gateway has not said yet what it takes. */
const MESSAGE_SIZE = 65_536;
/** Bytes of `connect` beside its `subs`: the token is at most 8,192 characters. */
const CONNECT_SIZE = 9_000;

export class Subscriptions implements SubscriptionOwner {
  private readonly _byChannel = new Map<string, Subscription>();
  private readonly _timers = new Set<unknown>();
  /** Positions of channels that were not used yet. */
  private _loaded: Record<string, string> = {};
  private _saving = false;
  private _messageSize = MESSAGE_SIZE;
  /** Channels that wait for one call of `getChannelTokens`. */
  private _wanting: Set<Subscription> | undefined;

  constructor(
    private readonly _env: Environment,
    private readonly _connection: Connection,
    private readonly _getChannelTokens: GetChannelTokens | undefined,
    private readonly _retryDelay: (attempt: number, retryAfter?: number) => number,
    readonly _onError: (error: unknown) => void,
    private readonly _positions: Positions | undefined,
  ) {}

  /** Begin where an earlier client of the application was; before the first connection. */
  _restore(positions: Record<string, string>): void {
    this._loaded = { ...positions };
    for (const subscription of this._byChannel.values()) this._place(subscription);
  }

  private _place(subscription: Subscription): void {
    subscription.position = this._loaded[subscription.channel];
    delete this._loaded[subscription.channel];
  }

  /** Save the positions at the end of this task. */
  _onHandled(): void {
    if (!this._positions || this._saving) return;
    this._saving = true;
    queueMicrotask(() => {
      this._saving = false;
      const positions = { ...this._loaded };
      for (const { channel, _handled: handled } of this._byChannel.values()) if (handled) positions[channel] = handled;
      (async () => this._positions!.save(positions))().catch(this._onError);
    });
  }

  /** Return the subscription of *channel* with *sink* attached; subscribes if it is new, or was refused. */
  _acquire(channel: string, options: ChannelOptions, sink: Sink): Subscription {
    let subscription = this._byChannel.get(channel);
    if (!subscription) {
      subscription = new Subscription(channel, options, this);
      this._place(subscription);
      this._byChannel.set(channel, subscription);
      subscription._attach(sink, options);
      this._begin(subscription);
    } else {
      subscription._attach(sink, options);
      this._widen(subscription, options);
    }
    return subscription;
  }

  /** Add what another user of the channel asks for: joins and members, a token. */
  private _widen(subscription: Subscription, { presence, token }: ChannelOptions): void {
    const { options } = subscription;
    const resubscribe = presence && !options.presence && subscription.state === "live";
    if (presence) options.presence = true;
    options.token ??= token;
    if (!resubscribe) return;
    subscription._onDisconnected();
    this._resubscribe(subscription);
  }

  /** Detach *sink*; unsubscribes if nobody else has attached by the end of this task. */
  _release(subscription: Subscription, sink: Sink): void {
    subscription._detach(sink);
    if (subscription._feeds.size || subscription._byServer) return;
    queueMicrotask(() => {
      if (subscription._feeds.size || this._byChannel.get(subscription.channel) !== subscription) return;
      this._byChannel.delete(subscription.channel);
      if (this._connection.state !== "stopped") this._onHandled(); // its position is not wanted any more
      subscription._onDisconnected();
      if (!subscription._paused && subscription.state !== "gone") this._unsubscribe(subscription.channel);
    });
  }

  /** Return the `subs` of `connect`: every channel that is wanted, as far as one message can hold them. */
  _forConnect(): Record<string, Record<string, unknown>> {
    const subs: Record<string, Record<string, unknown>> = {};
    let size = CONNECT_SIZE;
    for (const subscription of this._byChannel.values()) {
      if (subscription._paused || subscription.state === "gone" || hasOwnOptions(subscription)) continue;
      const options = subscription._resume();
      size += JSON.stringify(options).length + subscription.channel.length + 4;
      if (size > this._messageSize) break;
      subs[subscription.channel] = options;
    }
    return subs;
  }

  _onConnected(reply: Connected, asked: Record<string, unknown>): void {
    this._messageSize = reply.limits?.message_size ?? MESSAGE_SIZE;
    for (const [channel, answer] of Object.entries(reply.subs)) {
      if (answer.type === "error") this._onRejected(this._byChannel.get(channel), errorOf(answer));
      else if (channel in asked && !this._byChannel.has(channel)) this._unsubscribe(channel); // released in the meantime
      else {
        this._onSubscribed({ ...answer, channel });
        if (channel in asked) this._askForMembers(this._byChannel.get(channel)!, false);
      }
    }
    for (const subscription of [...this._byChannel.values()]) {
      const { channel } = subscription;
      if (channel in reply.subs || subscription._paused || subscription.state === "gone") continue;
      if (channel in asked) this._drop(subscription, new FanwayError("", "the gateway did not subscribe to it"));
      else this._subscribe(subscription);
    }
  }

  _onDisconnected(): void {
    for (const subscription of this._byChannel.values()) subscription._onDisconnected();
  }

  _onPush(push: ServerMessage): void {
    if (push.type === "subscribed") return this._onSubscribed(push as unknown as Subscribed);
    const subscription = this._byChannel.get(push.channel);
    if (!subscription) return; // sent before the gateway had the unsubscribe
    if (push.type === "unsubscribed") this._onUnsubscribed(subscription, push as unknown as UnsubscribedPush);
    else subscription._onPush(push);
  }

  /** Channels that are subscribed to, or will be. */
  get _size(): number {
    return this._byChannel.size;
  }

  /** Forget every subscription: the client has stopped. */
  stop(error: FanwayError): void {
    for (const timer of this._timers) this._env.clearTimer(timer);
    this._timers.clear();
    for (const subscription of this._byChannel.values()) subscription._setState("gone", error);
  }

  /** Subscribe again to what was given up, after the client was stopped. */
  _restart(): void {
    for (const subscription of this._byChannel.values()) {
      subscription._paused = false;
      if (subscription.state === "gone") subscription._setState("pending");
    }
  }

  // ---------------------------------------------------------------- subscribe

  private _begin(subscription: Subscription): void {
    if (subscription.options.token && this._getChannelTokens) this._fetchToken(subscription);
    else this._subscribe(subscription);
  }

  private _subscribe(subscription: Subscription): void {
    if (this._connection.state !== "connected") return; // `connect` names it
    const { channel, options } = subscription;
    const own: { join_leave?: boolean; members?: boolean } = hasOwnOptions(subscription) ? { join_leave: options.presence, members: options.presence } : {};
    const current = () => this._byChannel.get(channel) === subscription && subscription.state !== "live";
    this._connection.call<Subscribed>(
      { type: "subscribe", channel, ...subscription._resume(), ...own },
      (reply) => {
        if (!current()) return;
        subscription._onSubscribed(reply);
        this._askForMembers(subscription, own.members);
      },
      (error) => {
        if (current() && error.code !== "connection_lost") this._onRejected(subscription, error);
      },
    );
  }

  /** Subscribe again if a handle wants joins and members by now that were not *asked* for when this was sent. */
  private _askForMembers(subscription: Subscription, asked: boolean | undefined): void {
    if (asked || !subscription.options.presence) return;
    subscription._onDisconnected();
    this._resubscribe(subscription);
  }

  private _unsubscribe(channel: string): void {
    if (this._connection.state === "connected") this._connection.request({ type: "unsubscribe", channel }).catch(() => {});
  }

  _resubscribe(subscription: Subscription): void {
    this._unsubscribe(subscription.channel);
    this._subscribe(subscription);
  }

  _history(channel: string, page: HistoryPage): Promise<Message[]> {
    return history(this._connection, channel, page);
  }

  _retry(callback: () => void, attempt: number, retryAfter?: number): void {
    this._later(callback, this._retryDelay(attempt, retryAfter));
  }

  private _later(callback: () => void, ms: number): void {
    const timer = this._env.setTimer(() => {
      this._timers.delete(timer);
      callback();
    }, ms);
    this._timers.add(timer);
  }

  private _onSubscribed(answer: Subscribed): void {
    let subscription = this._byChannel.get(answer.channel);
    if (!subscription) {
      // The server's own: kept, so that a handle finds its state, and a reconnect resumes it.
      subscription = new Subscription(answer.channel, {}, this);
      subscription._byServer = true;
      this._byChannel.set(answer.channel, subscription);
    }
    subscription._onSubscribed(answer);
  }

  private _onRejected(subscription: Subscription | undefined, error: FanwayError): void {
    if (!subscription || error.code === "already_subscribed") return;
    if (TRANSIENT_CODES.has(error.code)) {
      this._pause(subscription, this._retryDelay(subscription._attempts++, error.retryAfter), () => this._subscribe(subscription));
    } else if (this._canFetchToken(subscription) && TOKEN_CODES.has(error.code) && subscription._attempts === 0) {
      subscription._attempts++;
      this._fetchToken(subscription);
    } else this._drop(subscription, error);
  }

  private _onUnsubscribed(subscription: Subscription, push: UnsubscribedPush): void {
    const error = new FanwayError(push.code ?? "", push.reason ?? "the gateway ended the subscription");
    subscription._onDisconnected();
    if (push.code === "token_expired" && this._canFetchToken(subscription)) this._fetchToken(subscription);
    else this._drop(subscription, error);
  }

  private _drop(subscription: Subscription, error: FanwayError): void {
    this._byChannel.delete(subscription.channel);
    subscription._setState("gone", error);
  }

  private _pause(subscription: Subscription, delay: number, next: () => void): void {
    subscription._paused = true;
    this._later(() => {
      if (this._byChannel.get(subscription.channel) !== subscription || !subscription._paused) return;
      subscription._paused = false;
      next();
    }, delay);
  }

  // ---------------------------------------------------------------- channel tokens

  private _canFetchToken(subscription: Subscription): boolean {
    return this._getChannelTokens !== undefined && (subscription.options.token ?? subscription.token !== undefined);
  }

  /** Ask for the token of *subscription*, together with all that ask in this task. */
  private _fetchToken(subscription: Subscription): void {
    subscription._paused = true;
    if (this._wanting) return void this._wanting.add(subscription);
    const wanting = (this._wanting = new Set([subscription]));
    queueMicrotask(() => {
      this._wanting = undefined;
      const wanted = [...wanting].filter((it) => this._byChannel.get(it.channel) === it);
      (async () => this._getChannelTokens!(wanted.map((it) => it.channel)))().then(
        (tokens) => wanted.forEach((it) => this._onToken(it, tokens[it.channel])),
        (error: unknown) => {
          this._onError(error);
          for (const it of wanted) this._pause(it, this._retryDelay(it._attempts++), () => this._fetchToken(it));
        },
      );
    });
  }

  private _onToken(subscription: Subscription, token: string | undefined): void {
    if (this._byChannel.get(subscription.channel) !== subscription) return;
    subscription._paused = false;
    if (token === undefined) return this._drop(subscription, new FanwayError("unauthorized", "getChannelTokens has none for it"));
    subscription.token = token;
    this._subscribe(subscription);
  }
}

/** `connect` has no fields for joins and members: such channels are subscribed to by a command of their own. */
const hasOwnOptions = (subscription: Subscription): boolean => subscription.options.presence !== undefined;
