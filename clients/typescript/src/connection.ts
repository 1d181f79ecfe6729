/** One logical connection: opens transports, keeps one alive, decides when to try again. It knows no channels. */

import { ABNORMAL_CLOSURE, backoffBound, CLOSE_OF_ERROR, closeRule } from "./closes.js";
import type { Environment, PageEvent } from "./environment.js";
import { FanwayError, TRANSIENT_CODES, UnauthorizedError } from "./errors.js";
import type { State } from "./states.js";
import { type TokenReason, TokenSource } from "./token.js";
import { type Codec, json, type Link, type Rejection, type Transport, webSocket, type WebSocketConstructor } from "./transport.js";
import type { Command, Connected, ErrorReply, ServerMessage } from "./wire.js";

/** Milliseconds for the socket and `connect` together; beside the heartbeat, for any message of the gateway. */
const ANSWER_MS = 10_000;
/** Milliseconds in which a `ping` is answered on a connection that is alive. */
const PROBE_MS = 2_500;
/** A timer that is later than this was held back: the page was throttled, or the machine slept. */
const LATE_MS = 2_000;
/** The gateway's own close codes begin here; the connection that brings one works. */
const OWN_CODES = 4000;
/** Milliseconds without a connection after which `waiting` becomes `suspended`. */
const SUSPEND_MS = 120_000;

export interface StateChange {
  state: State;
  previous: State;
  /** The close code, where a connection ended; 1006 if it broke. */
  code?: number;
  /** For people. */
  reason?: string;
  /** Milliseconds until the next attempt, for `waiting` and `suspended`. */
  delay?: number;
  /** Attempts that failed since `connected`. */
  attempt: number;
}

export interface ConnectionStats {
  /** The name of the transport that is used, or tried. */
  transport: string;
  /** Connections that the gateway accepted. */
  connections: number;
  /** Commands, answers to pings included. */
  sent: number;
  /** Replies and pushes. */
  received: number;
  /** Commands without a reply yet. */
  pending: number;
}

/** The part of the client's options that is used here. */
export interface ConnectionOptions {
  client?: { name: string; version?: string };
  WebSocket?: WebSocketConstructor;
  transports?: readonly Transport[];
  codec?: Codec;
  retry?: (attempt: number) => number;
}

/** Who knows the channels and the publishes. */
export interface Owner {
  /** Return the `subs` of the next `connect`. */
  subs(): Record<string, unknown>;
  _onConnected(reply: Connected): void;
  _onPush(push: ServerMessage): void;
  /** The connection ended; every command without a reply was rejected with `connection_lost`. */
  _onDisconnected(): void;
  _onState(change: StateChange): void;
  _onError(error: unknown): void;
}

interface Waiting {
  resolve(reply: any): void;
  reject(error: unknown): void;
}

export class Connection {
  state: State = "idle";
  /** The reply to `connect`, while connected. */
  info: Connected | undefined;
  private _link: Link | undefined;
  /** Counts attempts, so that what belongs to an earlier one has no effect. */
  private _generation = 0;
  private _attempt = 0;
  private _endpoint = 0;
  /** Tried in turn until one has worked. */
  private readonly _transports: readonly Transport[];
  private _transport = 0;
  private readonly _counts = { connections: 0, sent: 0, received: 0 };
  /** Whether a message of the gateway arrived by this transport; from then on the others are not tried. */
  private _works = false;
  /** Transports that this attempt may still try. */
  private _untried = 0;
  private _lastId = 0;
  private readonly _replies = new Map<number, Waiting>();
  private _timer: unknown;
  private _probeTimer: unknown;
  private _lastHeard = 0;
  private _lostAt: number | undefined;
  /** The delay of the `reconnect` push on this connection. */
  private _announced: number | undefined;
  /** When the server allows the next attempt; waking up does not come before it. */
  private _notBefore = 0;
  /** Whether this attempt's token was fetched for it: another one would be no better. */
  private _freshToken = false;
  private _tokenReason: TokenReason | undefined;
  /** Whether the page is in the back/forward cache. */
  private _hidden = false;
  private _unlisten: (() => void) | undefined;

  constructor(
    private readonly _env: Environment,
    private readonly _urls: readonly string[],
    private readonly _options: ConnectionOptions,
    private readonly _tokens: TokenSource,
    private readonly _owner: Owner,
  ) {
    this._transports = _options.transports ?? [webSocket(_options.WebSocket)];
  }

  // ---------------------------------------------------------------- what the application asks for

  /** Begin the first attempt, or the next one at once; nothing while connecting or connected. */
  connect(): void {
    if (this.state === "connecting" || this.state === "connected") return;
    if (!this._unlisten) this._unlisten = this._env.listen((event) => this._onPageEvent(event));
    this._begin();
  }

  /** End the connection for good. */
  stop(reason = "closed by the application", code = 1000): void {
    if (this.state === "stopped") return;
    this._drop(reason);
    this._unlisten?.();
    this._unlisten = undefined;
    this._move("stopped", { code, reason });
  }

  /** Send *command*; return its reply. Errors of the gateway reject, and so does the end of the connection. */
  request<Reply = ServerMessage>(command: Command): Promise<Reply> {
    return new Promise((resolve, reject) => this.call<Reply>(command, resolve, reject));
  }

  /**
   * As `request`, but call *resolve* before the next message is handled: where several arrive at once, as from `ws` in
   * Node, a promise would run its callbacks after all of them.
   */
  call<Reply>(command: Command, resolve: (reply: Reply) => void, reject: (error: FanwayError) => void): void {
    if (this.state !== "connected") return reject(new FanwayError("not_connected", "there is no connection"));
    const id = ++this._lastId;
    this._replies.set(id, { resolve, reject });
    this._send({ ...command, id });
  }

  // ---------------------------------------------------------------- attempts

  private _begin(): void {
    this._env.clearTimer(this._timer);
    this._generation++;
    this._lostAt = this._lostAt ?? this._env.now();
    if (!this._works) this._transport = 0;
    this._untried = this._works ? 0 : this._transports.length - 1;
    this._move("connecting");
    const reason = this._tokenReason ?? this._tokens._needed();
    this._freshToken = reason !== undefined;
    if (reason === undefined) this._open();
    else this._fetchToken(reason, () => this._open());
  }

  /** Fetch a token, and call *next* if this attempt still goes on. */
  private _fetchToken(reason: TokenReason, next: (token: string | undefined) => void): void {
    const generation = this._generation;
    const current = () => generation === this._generation && (this.state === "connecting" || this.state === "connected");
    this._tokens.fetch(reason).then(
      (token) => {
        if (!current()) return;
        this._tokenReason = undefined;
        next(token);
      },
      (error: unknown) => {
        if (current()) this._onTokenError(error);
      },
    );
  }

  private _onTokenError(error: unknown): void {
    if (error instanceof UnauthorizedError) return this.stop(error.message || "unauthorized", 4003);
    this._owner._onError(error);
    // A connection goes on until its token expires; the gateway ends it then.
    if (this.state === "connecting") this._end(ABNORMAL_CLOSURE, "getToken failed");
  }

  private _open(): void {
    const generation = this._generation;
    const current = () => generation === this._generation;
    this._announced = undefined;
    this._lastId = 0;
    this._startTimer(ANSWER_MS, () => this._lost("no answer to connect"));
    try {
      this._link = this._via.connect(this._urls[this._endpoint % this._urls.length]!, this._codec, {
        open: () => current() && this._sendConnect(),
        alive: () => current() && this._onAlive(),
        message: (data) => current() && this._onData(data),
        close: (code, reason, rejection) => current() && this._onClose(code, reason, rejection),
      });
    } catch (error) {
      if (this._fallBack()) return;
      this._owner._onError(error);
      this.stop("cannot connect", ABNORMAL_CLOSURE);
    }
  }

  /** The transport of this attempt. */
  private get _via(): Transport {
    return this._transports[this._transport]!;
  }

  private get _codec(): Codec {
    return this._via.codec ?? this._options.codec ?? json;
  }

  /** Go on with the next transport at once, if none has worked yet; return whether there was one. */
  private _fallBack(reason = ""): boolean {
    if (!this._untried) return false;
    this._untried--;
    this._transport++;
    this._drop(reason);
    this._open();
    return true;
  }

  private _sendConnect(): void {
    const { client } = this._options;
    const id = ++this._lastId;
    this._replies.set(id, {
      resolve: (reply: Connected) => this._onConnected(reply),
      reject: (error: FanwayError) => this._onConnectRejected(error),
    });
    const token = this._tokens.current;
    this._send({ type: "connect", id, token, client, subs: this._owner.subs() });
  }

  private _onConnected(reply: Connected): void {
    this.info = reply;
    this._counts.connections++;
    this._attempt = 0;
    this._lostAt = undefined;
    this._tokens._expiresIn(reply.expires_in);
    this._watchSilence();
    this._move("connected");
    this._owner._onConnected(reply);
  }

  private _onConnectRejected(error: FanwayError): void {
    if (error.code === "connection_lost") return; // the end of the connection decides
    const code = CLOSE_OF_ERROR[error.code];
    const reason = `${error.code}: ${error.message}`;
    if (code !== undefined) this._end(code, reason, error.retryAfter);
    else if (TRANSIENT_CODES.has(error.code)) this._end(ABNORMAL_CLOSURE, reason, error.retryAfter);
    else this.stop(reason, 4002);
  }

  // ---------------------------------------------------------------- what arrives

  private _onAlive(): void {
    this._lastHeard = this._env.now();
    this._endProbe();
  }

  private _endProbe(): void {
    this._env.clearTimer(this._probeTimer);
    this._probeTimer = undefined;
  }

  private _onData(data: string | ArrayBuffer): void {
    this._onAlive();
    let message: ServerMessage;
    try {
      message = this._codec.decode(data) as ServerMessage;
    } catch (error) {
      this._owner._onError(error);
      return this._lost("cannot decode a message");
    }
    this._works = true;
    this._counts.received++;
    this._untried = 0;
    const waiting = message.id === undefined ? undefined : this._replies.get(message.id);
    if (!waiting) return this._onPush(message);
    this._replies.delete(message.id!);
    if (message.type === "error") waiting.reject(errorOf(message as unknown as ErrorReply));
    else waiting.resolve(message);
  }

  private _onPush(push: ServerMessage): void {
    switch (push.type) {
      case "ping":
        return this._send({ type: "pong" });
      case "expiring":
        return this._refresh();
      case "reconnect":
        this._announced = push.after_ms;
        return;
      case "error":
        if (push.id === undefined) this._owner._onError(errorOf(push as unknown as ErrorReply));
        return;
      default:
        if (this.state === "connected") this._owner._onPush(push);
    }
  }

  private _onClose(code: number, reason: string, rejection?: Rejection): void {
    this._link = undefined;
    if (code < OWN_CODES && this._fallBack(reason)) return;
    if (rejection && rejection.status < 500 && rejection.status !== 429)
      return this.stop(reason || `refused with HTTP ${rejection.status}`, ABNORMAL_CLOSURE);
    // Retry-After holds for all who were refused; the jitter on top spreads them.
    this._end(code, reason, rejection?.retryAfter, rejection !== undefined);
  }

  /** Fetch another token and go on with it. */
  private _refresh(): void {
    const { _tokens: tokens } = this;
    if (!tokens._canFetch) return;
    this._fetchToken("expiring", (token) => {
      this.request<{ expires_in?: number }>({ type: "refresh", token }).then(
        (reply) => tokens._expiresIn(reply.expires_in),
        (error: FanwayError) => error.code !== "connection_lost" && this._owner._onError(error),
      );
    });
  }

  // ---------------------------------------------------------------- signs of life

  private _watchSilence(): void {
    const limit = this.info!.heartbeat * 1000 + ANSWER_MS;
    const wait = Math.max(0, this._lastHeard + limit - this._env.now());
    const due = this._env.now() + wait;
    this._startTimer(wait, () => {
      const now = this._env.now();
      if (now < this._lastHeard + limit) return this._watchSilence();
      if (now < due + LATE_MS) return this._lost("the gateway is silent");
      // The timer was held back, and so may the messages be: ask before giving up.
      this._probe();
      this._startTimer(PROBE_MS * 2, () => this._watchSilence());
    });
  }

  /** Send a `ping`; the connection is lost if nothing arrives in time. */
  private _probe(): void {
    if (this.state !== "connected" || this._probeTimer !== undefined) return;
    this.request({ type: "ping" }).catch(() => {});
    this._probeTimer = this._env.setTimer(() => {
      this._lost("no answer to a ping");
    }, PROBE_MS);
  }

  private _onPageEvent(event: PageEvent): void {
    if (event === "hide") return this._hide();
    if (event !== "offline") this._hidden = false;
    if (this.state === "connected") {
      if (this._tokens.expired) this._refresh();
      this._probe();
    } else if (event !== "offline" && (this.state === "waiting" || this.state === "suspended")) {
      const delay = this._notBefore - this._env.now();
      if (delay <= 0) this._begin();
      else this._scheduleAttempt(delay);
    }
  }

  /** Close for the back/forward cache, which does not keep pages with a socket. */
  private _hide(): void {
    this._hidden = true;
    if (this.state !== "connected" && this.state !== "connecting") return;
    this._drop("the page is hidden");
    this._wait(0, { code: 1000, reason: "the page is hidden" });
  }

  // ---------------------------------------------------------------- ends

  private _lost(reason: string): void {
    if (this._fallBack(reason)) return;
    this._end(ABNORMAL_CLOSURE, reason);
  }

  private _end(code: number, reason: string, retryAfter = 0, onTop = false): void {
    const { _stop: stop, _token: token, _backoff: backoff } = closeRule(code);
    const announced = this._announced;
    this._drop(reason);
    const hopeless = token && (!this._tokens._canFetch || (token === "unauthorized" && this._freshToken));
    if (stop || hopeless) return this.stop(reason, code);
    this._tokenReason = token ?? this._tokenReason;
    const told = backoff === "told" ? announced : undefined;
    const bound = this._options.retry?.(this._attempt) ?? backoffBound(backoff, this._attempt);
    const jitter = told ?? bound * this._env.random();
    const delay = onTop ? retryAfter + jitter : Math.max(retryAfter, jitter);
    this._notBefore = this._env.now() + Math.max(retryAfter, told ?? 0);
    this._attempt++;
    this._endpoint++;
    this._wait(delay, { code, reason });
  }

  private _wait(delay: number, detail: { code: number; reason: string }): void {
    const lostAt = (this._lostAt = this._lostAt ?? this._env.now());
    const suspended = this.state === "connecting" && this._env.now() - lostAt >= SUSPEND_MS;
    if (suspended) this._works = false; // perhaps another network, which blocks what the last one let through
    this._move(suspended ? "suspended" : "waiting", { ...detail, delay });
    this._scheduleAttempt(delay);
  }

  private _scheduleAttempt(delay: number): void {
    if (this._hidden) return;
    this._startTimer(delay, () => {
      // Without a network, `online` starts the attempt.
      if (this._env.online()) this._begin();
    });
  }

  /** Close the socket, and forget what belongs to it. Browsers let a page close with 1000 only, of the codes below 3000. */
  private _drop(reason: string): void {
    this._generation++;
    this._env.clearTimer(this._timer);
    this._endProbe();
    this.info = undefined;
    const { _link: link } = this;
    this._link = undefined;
    link?.close(1000, reason.slice(0, 40)); // at most 123 bytes of UTF-8 (RFC 6455 section 5.5)
    const waiting = [...this._replies.values()];
    this._replies.clear();
    const error = new FanwayError("connection_lost", "no reply: the connection ended");
    for (const { reject } of waiting) reject(error);
    if (this.state === "connected") this._owner._onDisconnected();
  }

  /** Counts since the client was made. */
  get _stats(): ConnectionStats {
    return { transport: this._via.name, ...this._counts, pending: this._replies.size };
  }

  private _send(message: unknown): void {
    this._counts.sent++;
    this._link?.send(this._codec.encode(message));
  }

  private _startTimer(ms: number, callback: () => void): void {
    this._env.clearTimer(this._timer);
    this._timer = this._env.setTimer(callback, ms);
  }

  private _move(state: State, detail: Omit<StateChange, "state" | "previous" | "attempt"> = {}): void {
    const previous = this.state;
    this.state = state;
    this._owner._onState({ state, previous, attempt: this._attempt, ...detail });
  }
}

export const errorOf = (reply: ErrorReply): FanwayError =>
  new FanwayError(reply.code, reply.message, reply.retry_after_ms, reply.reason);
