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
  private readonly byChannel = new Map<string, Subscription>();
  private messageSize = MESSAGE_SIZE;
  /** Channels that wait for one call of `getChannelTokens`. */
  private wanting: Set<Subscription> | undefined;

  constructor(
    private readonly env: Environment,
    private readonly connection: Connection,
    private readonly getChannelTokens: GetChannelTokens | undefined,
    private readonly retryDelay: (attempt: number, retryAfter: number | undefined) => number,
    private readonly onError: (error: unknown) => void,
  ) {}

  /** Return the subscription of *channel* with *sink* attached; subscribes if it is new, or was refused. */
  acquire(channel: string, options: ChannelOptions, sink: Sink): Subscription {
    let subscription = this.byChannel.get(channel);
    if (!subscription) {
      subscription = new Subscription(channel, options, {
        resubscribe: (it) => this.resubscribe(it),
        retry: (callback, attempt) => void this.env.setTimer(callback, this.retryDelay(attempt, undefined)),
        onError: this.onError,
      });
      this.byChannel.set(channel, subscription);
      subscription.sinks.add(sink);
      this.begin(subscription);
    } else {
      subscription.sinks.add(sink);
      this.widen(subscription, options);
    }
    return subscription;
  }

  /** Add what another user of the channel asks for: joins and members, the state, a token. */
  private widen(subscription: Subscription, { presence, loadState, token }: ChannelOptions): void {
    const { options } = subscription;
    const resubscribe = presence && !options.presence && subscription.state === "live";
    if (presence) options.presence = true;
    options.loadState ??= loadState;
    options.token ??= token;
    if (!resubscribe) return;
    subscription.onDisconnected();
    this.resubscribe(subscription);
  }

  /** Detach *sink*; unsubscribes if nobody else has attached by the end of this task. */
  release(subscription: Subscription, sink: Sink): void {
    subscription.sinks.delete(sink);
    if (subscription.sinks.size || subscription.byServer) return;
    queueMicrotask(() => {
      if (subscription.sinks.size || this.byChannel.get(subscription.channel) !== subscription) return;
      this.byChannel.delete(subscription.channel);
      subscription.onDisconnected();
      if (!subscription.paused && subscription.state !== "gone") this.unsubscribe(subscription.channel);
    });
  }

  /** Return the `subs` of `connect`: every channel that is wanted, as far as one message can hold them. */
  forConnect(): Record<string, Record<string, unknown>> {
    const subs: Record<string, Record<string, unknown>> = {};
    let size = CONNECT_SIZE;
    for (const subscription of this.byChannel.values()) {
      if (subscription.paused || subscription.state === "gone" || hasOwnOptions(subscription)) continue;
      const options = subscription.resume();
      size += JSON.stringify(options).length + subscription.channel.length + 4;
      if (size > this.messageSize) break;
      subs[subscription.channel] = options;
    }
    return subs;
  }

  onConnected(reply: Connected, asked: Record<string, unknown>): void {
    this.messageSize = reply.limits?.message_size ?? MESSAGE_SIZE;
    for (const [channel, answer] of Object.entries(reply.subs)) {
      if (answer.type === "error") this.onRejected(this.byChannel.get(channel), errorOf(answer));
      else if (channel in asked && !this.byChannel.has(channel)) this.unsubscribe(channel); // released in the meantime
      else this.onSubscribed({ ...answer, channel });
    }
    for (const subscription of [...this.byChannel.values()]) {
      const { channel } = subscription;
      if (channel in reply.subs || subscription.paused || subscription.state === "gone") continue;
      if (channel in asked) this.drop(subscription, new FanwayError("", "the gateway did not subscribe to it"));
      else this.subscribe(subscription);
    }
  }

  onDisconnected(): void {
    for (const subscription of this.byChannel.values()) subscription.onDisconnected();
  }

  onPush(push: ServerMessage): void {
    if (push.type === "subscribed") return this.onSubscribed(push as unknown as Subscribed);
    const subscription = this.byChannel.get(push.channel);
    if (!subscription) return; // sent before the gateway had the unsubscribe
    if (push.type === "unsubscribed") this.onUnsubscribed(subscription, push as unknown as UnsubscribedPush);
    else subscription.onPush(push);
  }

  /** Forget every subscription: the client has stopped. */
  stop(error: FanwayError): void {
    for (const subscription of this.byChannel.values()) subscription.setState("gone", error);
  }

  /** Subscribe again to what was given up, after the client was stopped. */
  restart(): void {
    for (const subscription of this.byChannel.values()) {
      subscription.paused = false;
      if (subscription.state === "gone") subscription.setState("pending");
    }
  }

  // ---------------------------------------------------------------- subscribe

  private begin(subscription: Subscription): void {
    if (subscription.options.token && this.getChannelTokens) this.fetchToken(subscription);
    else this.subscribe(subscription);
  }

  private subscribe(subscription: Subscription): void {
    if (this.connection.state !== "connected") return; // `connect` names it
    const { channel, options } = subscription;
    const own = hasOwnOptions(subscription) ? { join_leave: options.presence, members: options.presence } : {};
    const current = () => this.byChannel.get(channel) === subscription && subscription.state !== "live";
    this.connection.request<Subscribed>({ type: "subscribe", channel, ...subscription.resume(), ...own }).then(
      (reply) => current() && subscription.onSubscribed(reply),
      (error: FanwayError) => {
        if (current() && error.code !== "connection_lost") this.onRejected(subscription, error);
      },
    );
  }

  private unsubscribe(channel: string): void {
    if (this.connection.state === "connected") this.connection.request({ type: "unsubscribe", channel }).catch(() => {});
  }

  private resubscribe(subscription: Subscription): void {
    this.unsubscribe(subscription.channel);
    this.subscribe(subscription);
  }

  private onSubscribed(answer: Subscribed): void {
    let subscription = this.byChannel.get(answer.channel);
    if (!subscription) {
      // The server's own: kept, so that a handle finds its state, and a reconnect resumes it.
      subscription = new Subscription(answer.channel, {}, { resubscribe: () => {}, retry: () => {}, onError: this.onError });
      subscription.byServer = true;
      this.byChannel.set(answer.channel, subscription);
    }
    subscription.onSubscribed(answer);
  }

  private onRejected(subscription: Subscription | undefined, error: FanwayError): void {
    if (!subscription || error.code === "already_subscribed") return;
    if (TRANSIENT_CODES.has(error.code)) {
      this.pause(subscription, this.retryDelay(subscription.attempts++, error.retryAfter), () => this.subscribe(subscription));
    } else if (this.canFetchToken(subscription) && TOKEN_CODES.has(error.code) && subscription.attempts === 0) {
      subscription.attempts++;
      this.fetchToken(subscription);
    } else this.drop(subscription, error);
  }

  private onUnsubscribed(subscription: Subscription, push: UnsubscribedPush): void {
    const error = new FanwayError(push.code ?? "", push.reason ?? "the gateway ended the subscription");
    subscription.onDisconnected();
    if (push.code === "token_expired" && this.canFetchToken(subscription)) this.fetchToken(subscription);
    else this.drop(subscription, error);
  }

  private drop(subscription: Subscription, error: FanwayError): void {
    this.byChannel.delete(subscription.channel);
    subscription.setState("gone", error);
  }

  private pause(subscription: Subscription, delay: number, next: () => void): void {
    subscription.paused = true;
    this.env.setTimer(() => {
      if (this.byChannel.get(subscription.channel) !== subscription || !subscription.paused) return;
      subscription.paused = false;
      next();
    }, delay);
  }

  // ---------------------------------------------------------------- channel tokens

  private canFetchToken(subscription: Subscription): boolean {
    return this.getChannelTokens !== undefined && (subscription.options.token ?? subscription.token !== undefined);
  }

  /** Ask for the token of *subscription*, together with all that ask in this task. */
  private fetchToken(subscription: Subscription): void {
    subscription.paused = true;
    if (this.wanting) return void this.wanting.add(subscription);
    const wanting = (this.wanting = new Set([subscription]));
    queueMicrotask(() => {
      this.wanting = undefined;
      const wanted = [...wanting].filter((it) => this.byChannel.get(it.channel) === it);
      (async () => this.getChannelTokens!(wanted.map((it) => it.channel)))().then(
        (tokens) => wanted.forEach((it) => this.onToken(it, tokens[it.channel])),
        (error: unknown) => {
          this.onError(error);
          for (const it of wanted) this.pause(it, this.retryDelay(it.attempts++, undefined), () => this.fetchToken(it));
        },
      );
    });
  }

  private onToken(subscription: Subscription, token: string | undefined): void {
    if (this.byChannel.get(subscription.channel) !== subscription) return;
    subscription.paused = false;
    if (token === undefined) return this.drop(subscription, new FanwayError("unauthorized", "getChannelTokens has none for it"));
    subscription.token = token;
    this.subscribe(subscription);
  }
}

/** `connect` has no fields for joins and members: such channels are subscribed to by a command of their own. */
const hasOwnOptions = (subscription: Subscription): boolean => subscription.options.presence !== undefined;
