/** All subscriptions of a client: who is subscribed, who waits, and what `connect` restores. */

import type { Connection } from "./connection.js";
import { errorOf } from "./connection.js";
import type { Environment } from "./environment.js";
import { FanwayError, TRANSIENT_CODES } from "./errors.js";
import { type ChannelOptions, type Sink, Subscription } from "./subscription.js";
import type { Connected, ServerMessage, Subscribed, UnsubscribedPush } from "./wire.js";

/** Fetches channel tokens: one call for all channels that need one at the same time. */
export type GetChannelTokens = (channels: string[]) => Record<string, string> | Promise<Record<string, string>>;

/** Codes after which another channel token may help. */
const TOKEN_CODES: ReadonlySet<string> = new Set(["unauthorized", "token_expired", "permission_denied"]);
/** Bytes of `connect` if the gateway has not said yet what it takes. */
const MESSAGE_SIZE = 65_536;
/** Bytes of `connect` beside its `subs`: the token is at most 8,192 characters. */
const CONNECT_SIZE = 9_000;

export class Subscriptions {
  private readonly _byChannel = new Map<string, Subscription>();
  private _messageSize = MESSAGE_SIZE;
  /** Channels that wait for one call of `getChannelTokens`. */
  private _wanting: Set<Subscription> | undefined;

  constructor(
    private readonly _env: Environment,
    private readonly _connection: Connection,
    private readonly _getChannelTokens: GetChannelTokens | undefined,
    private readonly _retryDelay: (attempt: number, retryAfter: number | undefined) => number,
    private readonly _onError: (error: unknown) => void,
  ) {}

  /** Return the subscription of *channel* with *sink* attached; subscribes if it is new, or was refused. */
  acquire(channel: string, options: ChannelOptions, sink: Sink): Subscription {
    let subscription = this._byChannel.get(channel);
    if (!subscription) {
      subscription = new Subscription(channel, options, {
        resubscribe: (it) => this._resubscribe(it),
        retry: (callback, attempt) => void this._env.setTimer(callback, this._retryDelay(attempt, undefined)),
        onError: this._onError,
      });
      this._byChannel.set(channel, subscription);
      subscription.sinks.add(sink);
      this._begin(subscription);
    } else {
      subscription.sinks.add(sink);
      this._widen(subscription, options);
    }
    return subscription;
  }

  /** Add what another user of the channel asks for: joins and members, the state, a token. */
  private _widen(subscription: Subscription, { presence, loadState, token }: ChannelOptions): void {
    const { options } = subscription;
    const resubscribe = presence && !options.presence && subscription.state === "live";
    if (presence) options.presence = true;
    options.loadState ??= loadState;
    options.token ??= token;
    if (!resubscribe) return;
    subscription.onDisconnected();
    this._resubscribe(subscription);
  }

  /** Detach *sink*; unsubscribes if nobody else has attached by the end of this task. */
  release(subscription: Subscription, sink: Sink): void {
    subscription.sinks.delete(sink);
    if (subscription.sinks.size || subscription.byServer) return;
    queueMicrotask(() => {
      if (subscription.sinks.size || this._byChannel.get(subscription.channel) !== subscription) return;
      this._byChannel.delete(subscription.channel);
      subscription.onDisconnected();
      if (!subscription.paused && subscription.state !== "gone") this._unsubscribe(subscription.channel);
    });
  }

  /** Return the `subs` of `connect`: every channel that is wanted, as far as one message can hold them. */
  forConnect(): Record<string, Record<string, unknown>> {
    const subs: Record<string, Record<string, unknown>> = {};
    let size = CONNECT_SIZE;
    for (const subscription of this._byChannel.values()) {
      if (subscription.paused || subscription.state === "gone" || hasOwnOptions(subscription)) continue;
      const options = subscription.resume();
      size += JSON.stringify(options).length + subscription.channel.length + 4;
      if (size > this._messageSize) break;
      subs[subscription.channel] = options;
    }
    return subs;
  }

  onConnected(reply: Connected, asked: Record<string, unknown>): void {
    this._messageSize = reply.limits?.message_size ?? MESSAGE_SIZE;
    for (const [channel, answer] of Object.entries(reply.subs)) {
      if (answer.type === "error") this._onRejected(this._byChannel.get(channel), errorOf(answer));
      else if (channel in asked && !this._byChannel.has(channel)) this._unsubscribe(channel); // released in the meantime
      else this._onSubscribed({ ...answer, channel });
    }
    for (const subscription of [...this._byChannel.values()]) {
      const { channel } = subscription;
      if (channel in reply.subs || subscription.paused || subscription.state === "gone") continue;
      if (channel in asked) this._drop(subscription, new FanwayError("", "the gateway did not subscribe to it"));
      else this._subscribe(subscription);
    }
  }

  onDisconnected(): void {
    for (const subscription of this._byChannel.values()) subscription.onDisconnected();
  }

  onPush(push: ServerMessage): void {
    if (push.type === "subscribed") return this._onSubscribed(push as unknown as Subscribed);
    const subscription = this._byChannel.get(push.channel);
    if (!subscription) return; // sent before the gateway had the unsubscribe
    if (push.type === "unsubscribed") this._onUnsubscribed(subscription, push as unknown as UnsubscribedPush);
    else subscription.onPush(push);
  }

  /** Forget every subscription: the client has stopped. */
  stop(error: FanwayError): void {
    for (const subscription of this._byChannel.values()) subscription.setState("gone", error);
  }

  /** Subscribe again to what was given up, after the client was stopped. */
  restart(): void {
    for (const subscription of this._byChannel.values()) {
      subscription.paused = false;
      if (subscription.state === "gone") subscription.setState("pending");
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
    const own = hasOwnOptions(subscription) ? { join_leave: options.presence, members: options.presence } : {};
    const current = () => this._byChannel.get(channel) === subscription && subscription.state !== "live";
    this._connection.call<Subscribed>(
      { type: "subscribe", channel, ...subscription.resume(), ...own },
      (reply) => current() && subscription.onSubscribed(reply),
      (error) => {
        if (current() && error.code !== "connection_lost") this._onRejected(subscription, error);
      },
    );
  }

  private _unsubscribe(channel: string): void {
    if (this._connection.state === "connected") this._connection.request({ type: "unsubscribe", channel }).catch(() => {});
  }

  private _resubscribe(subscription: Subscription): void {
    this._unsubscribe(subscription.channel);
    this._subscribe(subscription);
  }

  private _onSubscribed(answer: Subscribed): void {
    let subscription = this._byChannel.get(answer.channel);
    if (!subscription) {
      // The server's own: kept, so that a handle finds its state, and a reconnect resumes it.
      subscription = new Subscription(answer.channel, {}, { resubscribe: () => {}, retry: () => {}, onError: this._onError });
      subscription.byServer = true;
      this._byChannel.set(answer.channel, subscription);
    }
    subscription.onSubscribed(answer);
  }

  private _onRejected(subscription: Subscription | undefined, error: FanwayError): void {
    if (!subscription || error.code === "already_subscribed") return;
    if (TRANSIENT_CODES.has(error.code)) {
      this._pause(subscription, this._retryDelay(subscription.attempts++, error.retryAfter), () => this._subscribe(subscription));
    } else if (this._canFetchToken(subscription) && TOKEN_CODES.has(error.code) && subscription.attempts === 0) {
      subscription.attempts++;
      this._fetchToken(subscription);
    } else this._drop(subscription, error);
  }

  private _onUnsubscribed(subscription: Subscription, push: UnsubscribedPush): void {
    const error = new FanwayError(push.code ?? "", push.reason ?? "the gateway ended the subscription");
    subscription.onDisconnected();
    if (push.code === "token_expired" && this._canFetchToken(subscription)) this._fetchToken(subscription);
    else this._drop(subscription, error);
  }

  private _drop(subscription: Subscription, error: FanwayError): void {
    this._byChannel.delete(subscription.channel);
    subscription.setState("gone", error);
  }

  private _pause(subscription: Subscription, delay: number, next: () => void): void {
    subscription.paused = true;
    this._env.setTimer(() => {
      if (this._byChannel.get(subscription.channel) !== subscription || !subscription.paused) return;
      subscription.paused = false;
      next();
    }, delay);
  }

  // ---------------------------------------------------------------- channel tokens

  private _canFetchToken(subscription: Subscription): boolean {
    return this._getChannelTokens !== undefined && (subscription.options.token ?? subscription.token !== undefined);
  }

  /** Ask for the token of *subscription*, together with all that ask in this task. */
  private _fetchToken(subscription: Subscription): void {
    subscription.paused = true;
    if (this._wanting) return void this._wanting.add(subscription);
    const wanting = (this._wanting = new Set([subscription]));
    queueMicrotask(() => {
      this._wanting = undefined;
      const wanted = [...wanting].filter((it) => this._byChannel.get(it.channel) === it);
      (async () => this._getChannelTokens!(wanted.map((it) => it.channel)))().then(
        (tokens) => wanted.forEach((it) => this._onToken(it, tokens[it.channel])),
        (error: unknown) => {
          this._onError(error);
          for (const it of wanted) this._pause(it, this._retryDelay(it.attempts++, undefined), () => this._fetchToken(it));
        },
      );
    });
  }

  private _onToken(subscription: Subscription, token: string | undefined): void {
    if (this._byChannel.get(subscription.channel) !== subscription) return;
    subscription.paused = false;
    if (token === undefined) return this._drop(subscription, new FanwayError("unauthorized", "getChannelTokens has none for it"));
    subscription.token = token;
    this._subscribe(subscription);
  }
}

/** `connect` has no fields for joins and members: such channels are subscribed to by a command of their own. */
const hasOwnOptions = (subscription: Subscription): boolean => subscription.options.presence !== undefined;
