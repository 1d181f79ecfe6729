/** `Fanway`: one client of the gateway. */

import { Channel, type ChannelOwner } from "./channel.js";
import { backoffBound } from "./closes.js";
import { Connection, type ConnectionStats, type StateChange } from "./connection.js";
import { Emitter } from "./emitter.js";
import { browser, type Environment } from "./environment.js";
import { FanwayError } from "./errors.js";
import { Publisher } from "./publisher.js";
import type { State } from "./states.js";
import type { ChannelOptions } from "./subscription.js";
import { type GetChannelTokens, type Positions, Subscriptions } from "./subscriptions.js";
import { type GetToken, TokenSource } from "./token.js";
import { checkUrl, type Codec, type Transport, type WebSocketConstructor } from "./transport.js";
import type { Connected } from "./wire.js";

export interface FanwayOptions {
  /** Returns the connection token; throw `UnauthorizedError` to stop. Without it the client is anonymous. */
  getToken?: GetToken;
  getChannelTokens?: GetChannelTokens;
  /** Name and version of the application, for operators. */
  client?: { name: string; version?: string };
  /** The platform's WebSocket where it is not given; `ws` in Node 20. */
  WebSocket?: WebSocketConstructor;
  /**
   * Tried in turn, at once, until a message arrives by one; the client keeps to that one. By default a WebSocket alone.
   */
  transports?: readonly Transport[];
  codec?: Codec;
  /** The longest wait in milliseconds before attempt number *attempt*; the wait is random below it. */
  retry?: (attempt: number) => number;
  /** Where to keep the positions of the channels, so that a page that was reloaded misses nothing. */
  positions?: Positions;
  environment?: Environment;
}

/** Numbers for people and tests: counts since the client was made, and what there is now. */
export interface Stats extends ConnectionStats {
  /** Publishes that are not settled. */
  publishes: number;
  /** Channels that are subscribed to, or will be. */
  channels: number;
}

export interface FanwayEvents {
  state: StateChange;
  /** What no promise reports: a listener that threw, a failed `getToken`, a gap that nobody listens to. */
  error: unknown;
}

/** The type of a channel's data: its own entry, else that of the longest `prefix*` that is declared. */
export type DataOf<Channels, Name extends string> = Name extends keyof Channels
  ? Channels[Name]
  : {
        [Key in keyof Channels & string]: Key extends `${infer Prefix}*` ? (Name extends `${Prefix}${string}` ? Channels[Key] : never) : never;
      }[keyof Channels & string] extends infer Found
    ? [Found] extends [never]
      ? unknown
      : Found
    : never;

/**
 * A client of the gateway. It connects when the first channel is used, reconnects by itself, and resumes every
 * channel where it was.
 *
 *     const fanway = new Fanway("https://rt.example.com", { getToken });
 *     for await (const message of fanway.channel("chat:1")) show(message.data);
 *
 * `url` is `https://host`, or `wss://host/v1/ws`; with several, each failed attempt goes on to the next.
 * `Channels` may name the type of the data by channel: `Fanway<{ "chat:*": ChatMessage }>`.
 */
export class Fanway<Channels = Record<string, any>> {
  private readonly _emitter = new Emitter((error) => console.error(error));
  private readonly _connection: Connection;
  private readonly _subscriptions: Subscriptions;
  private readonly _publisher: Publisher;
  private readonly _tokens: TokenSource;
  private readonly _owner: ChannelOwner;
  private _asked: Record<string, unknown> = {};
  /** Whether positions are being loaded, and what then. */
  private _loading = false;
  private _wanted = false;

  constructor(url: string | readonly string[], options: FanwayOptions = {}) {
    const urls = typeof url === "string" ? [url] : url;
    urls.forEach(checkUrl);
    const env = options.environment ?? browser;
    const onError = (error: unknown) => this._reportError(error);
    const retryDelay = (attempt: number, retryAfter = 0) => Math.max(retryAfter, backoffBound("jitter", attempt) * env.random());
    this._tokens = new TokenSource(env, options.getToken);
    this._connection = new Connection(
      env,
      urls,
      options,
      this._tokens,
      {
        subs: () => (this._asked = this._subscriptions._forConnect()),
        _onConnected: (reply) => {
          this._subscriptions._onConnected(reply, this._asked);
          this._publisher._onConnected(reply);
        },
        _onPush: (push) => this._subscriptions._onPush(push),
        _onDisconnected: () => this._subscriptions._onDisconnected(),
        _onState: (change) => this._onState(change),
        _onError: onError,
      },
    );
    this._subscriptions = new Subscriptions(env, this._connection, options.getChannelTokens, retryDelay, onError, options.positions);
    this._publisher = new Publisher(env, this._connection, retryDelay);
    this._owner = {
      _acquire: (channel, channelOptions, sink) => {
        const subscription = this._subscriptions._acquire(channel, channelOptions, sink);
        this._start();
        return subscription;
      },
      _release: (subscription, sink) => this._subscriptions._release(subscription, sink),
      publish: (channel, data, publishOptions) => {
        this._start();
        return this._publisher.publish(channel, data, publishOptions);
      },
      request: (command) => this._connection.request(command),
      _reportError: onError,
    };
    if (options.positions) this._load(options.positions);
  }

  /** @internal For the other entries of this package. */
  get _internals(): { connection: Connection; subscriptions: Subscriptions } {
    return { connection: this._connection, subscriptions: this._subscriptions };
  }

  get state(): State {
    return this._connection.state;
  }

  /** What the gateway said to `connect`: this connection's id, user, node, limits. Undefined unless connected. */
  get info(): Readonly<Connected> | undefined {
    return this._connection.info;
  }

  stats(): Stats {
    return { ...this._connection._stats, publishes: this._publisher._size, channels: this._subscriptions._size };
  }

  /** Call *listener* for each event; return a function that ends it. */
  on<Type extends keyof FanwayEvents>(type: Type, listener: (event: FanwayEvents[Type]) => void): () => void {
    return this._emitter.on(type, listener);
  }

  /** Connect now; after `stopped`, begin again. Channels and publishes do it by themselves the first time. */
  connect(): void {
    if (this.state === "stopped") this._subscriptions._restart();
    this._connect();
  }

  /** Return a handle on *name*; handles of the same name share one subscription. */
  channel<Name extends string>(name: Name, options: ChannelOptions = {}): Channel<DataOf<Channels, Name>> {
    return new Channel(name, options, this._owner);
  }

  /** Use *token* for the next connection, for example after a sign-in; `undefined` forgets it. */
  setToken(token: string | undefined): void {
    this._tokens.set(token);
  }

  /** Disconnect for good: publishes that wait reject, loops end, no timer and no socket is left. */
  async close(): Promise<void> {
    this._wanted = false;
    this._connection.stop();
  }

  private _start(): void {
    if (this.state === "idle") this._connect();
  }

  private _connect(): void {
    this._wanted = this._loading;
    if (!this._loading) this._connection.connect();
  }

  private async _load(positions: Positions): Promise<void> {
    this._loading = true;
    try {
      await undefined; // what is reported finds listeners
      this._subscriptions._restore((await positions.load()) ?? {});
    } catch (error) {
      this._reportError(error);
    }
    this._loading = false;
    if (this._wanted) this._connect();
  }

  private _onState(change: StateChange): void {
    if (change.state === "stopped") {
      this._subscriptions.stop(new FanwayError("stopped", change.reason ?? "the client has stopped"));
      this._publisher.stop();
    }
    this._emitter.emit("state", change);
  }

  private _reportError(error: unknown): void {
    if (this._emitter.has("error")) this._emitter.emit("error", error);
    else console.error(error);
  }
}
