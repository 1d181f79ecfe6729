/** One logical connection: opens transports, keeps one alive, decides when to try again. It knows no channels. */

import { ABNORMAL_CLOSURE, backoffBound, CLOSE_OF_ERROR, closeRule, type CloseRule } from "./closes.js";
import type { Environment, PageEvent } from "./environment.js";
import { FanwayError, TRANSIENT_CODES, UnauthorizedError } from "./errors.js";
import { type Input, type State, TRANSITIONS } from "./states.js";
import { type TokenReason, TokenSource } from "./token.js";
import type { Codec, Link, Rejection, Transport } from "./transport.js";
import type { Command, Connected, ErrorReply, ServerMessage } from "./wire.js";

/** Milliseconds for the socket and `connect` together; beside the heartbeat, for any message of the gateway. */
const ANSWER_MS = 10_000;
/** Milliseconds in which a `ping` is answered on a connection that is alive. */
const PROBE_MS = 2_500;
/** A timer that is later than this was held back: the page was throttled, or the machine slept. */
const LATE_MS = 2_000;
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

export interface ConnectionOptions {
  urls: readonly string[];
  transport: Transport;
  codec: Codec;
  tokens: TokenSource;
  client?: { name: string; version?: string };
  /** The longest wait in milliseconds before attempt number *attempt*; replaces the doubling bound. */
  retryBound?: (attempt: number) => number;
}

/** Who knows the channels and the publishes. */
export interface Owner {
  /** Return the `subs` of the next `connect`. */
  subs(): Record<string, unknown>;
  onConnected(reply: Connected): void;
  onPush(push: ServerMessage): void;
  /** The connection ended; every command without a reply was rejected with `connection_lost`. */
  onDisconnected(): void;
  onState(change: StateChange): void;
  onError(error: unknown): void;
}

interface Waiting {
  resolve(reply: any): void;
  reject(error: unknown): void;
}

export class Connection {
  state: State = "idle";
  /** The reply to `connect`, while connected. */
  info: Connected | undefined;
  private link: Link | undefined;
  /** Counts attempts, so that what belongs to an earlier one has no effect. */
  private generation = 0;
  private attempt = 0;
  private endpoint = 0;
  private lastId = 0;
  private readonly replies = new Map<number, Waiting>();
  private timer: unknown;
  private probeTimer: unknown;
  private lastHeard = 0;
  private lostAt: number | undefined;
  /** The delay of the `reconnect` push on this connection. */
  private announced: number | undefined;
  /** When the server allows the next attempt; waking up does not come before it. */
  private notBefore = 0;
  /** Whether this attempt's token was fetched for it: another one would be no better. */
  private freshToken = false;
  private tokenReason: TokenReason | undefined;
  /** Whether the page is in the back/forward cache. */
  private hidden = false;
  private unlisten: (() => void) | undefined;

  constructor(
    private readonly env: Environment,
    private readonly options: ConnectionOptions,
    private readonly owner: Owner,
  ) {}

  // ---------------------------------------------------------------- what the application asks for

  /** Begin the first attempt, or the next one at once; nothing while connecting or connected. */
  connect(): void {
    if (!TRANSITIONS[this.state].connect) return;
    this.unlisten ??= this.env.listen((event) => this.onPageEvent(event));
    this.begin();
  }

  /** End the connection for good. */
  stop(reason = "the application closed it", code = 1000): void {
    if (this.state === "stopped") return;
    this.drop(reason);
    this.unlisten?.();
    this.unlisten = undefined;
    this.move("stop", { code, reason });
  }

  /** Send *command*; return its reply. Errors of the gateway reject, and so does the end of the connection. */
  request<Reply = ServerMessage>(command: Command): Promise<Reply> {
    return new Promise((resolve, reject) => {
      if (this.state !== "connected") return reject(new FanwayError("not_connected", "there is no connection"));
      const id = ++this.lastId;
      this.replies.set(id, { resolve, reject });
      this.send({ ...command, id });
    });
  }

  // ---------------------------------------------------------------- attempts

  private begin(): void {
    this.env.clearTimer(this.timer);
    this.generation++;
    this.lostAt ??= this.env.now();
    this.move("connect");
    const reason = this.tokenReason ?? this.options.tokens.needed();
    this.freshToken = reason !== undefined;
    if (reason === undefined) this.open();
    else this.fetchToken(reason, () => this.open());
  }

  /** Fetch a token, and call *next* if this attempt still goes on. */
  private fetchToken(reason: TokenReason, next: (token: string | undefined) => void): void {
    const generation = this.generation;
    const current = () => generation === this.generation && (this.state === "connecting" || this.state === "connected");
    this.options.tokens.fetch(reason).then(
      (token) => {
        if (!current()) return;
        this.tokenReason = undefined;
        next(token);
      },
      (error: unknown) => {
        if (current()) this.onTokenError(error);
      },
    );
  }

  private onTokenError(error: unknown): void {
    if (error instanceof UnauthorizedError) return this.stop(error.message || "getToken says unauthorized", 4003);
    this.owner.onError(error);
    // A connection goes on until its token expires; the gateway ends it then.
    if (this.state === "connecting") this.end(closeRule(ABNORMAL_CLOSURE), ABNORMAL_CLOSURE, "getToken failed");
  }

  private open(): void {
    const { urls, transport, codec } = this.options;
    const generation = this.generation;
    const current = () => generation === this.generation;
    this.announced = undefined;
    this.lastId = 0;
    this.startTimer(ANSWER_MS, () => this.lost("no answer to connect in time"));
    try {
      this.link = transport.connect(urls[this.endpoint % urls.length]!, codec, {
        open: () => current() && this.sendConnect(),
        message: (data) => current() && this.onData(data),
        close: (code, reason, rejection) => current() && this.onClose(code, reason, rejection),
      });
    } catch (error) {
      this.owner.onError(error);
      this.stop("the connection cannot be opened", ABNORMAL_CLOSURE);
    }
  }

  private sendConnect(): void {
    const { client, tokens } = this.options;
    const id = ++this.lastId;
    this.replies.set(id, {
      resolve: (reply: Connected) => this.onConnected(reply),
      reject: (error: FanwayError) => this.onConnectRejected(error),
    });
    const token = tokens.current;
    this.send({ type: "connect", id, ...(token !== undefined && { token }), ...(client && { client }), subs: this.owner.subs() });
  }

  private onConnected(reply: Connected): void {
    this.info = reply;
    this.attempt = 0;
    this.lostAt = undefined;
    this.options.tokens.expiresIn(reply.expires_in);
    this.watchSilence();
    this.move("connected");
    this.owner.onConnected(reply);
  }

  private onConnectRejected(error: FanwayError): void {
    if (error.code === "connection_lost") return; // the end of the connection decides
    const code = CLOSE_OF_ERROR[error.code];
    const reason = `${error.code}: ${error.message}`;
    if (code !== undefined) this.end(closeRule(code), code, reason, error.retryAfter);
    else if (TRANSIENT_CODES.has(error.code)) this.end(closeRule(ABNORMAL_CLOSURE), ABNORMAL_CLOSURE, reason, error.retryAfter);
    else this.stop(reason, 4002);
  }

  // ---------------------------------------------------------------- what arrives

  private onData(data: string | ArrayBuffer): void {
    this.lastHeard = this.env.now();
    this.env.clearTimer(this.probeTimer);
    this.probeTimer = undefined;
    let message: ServerMessage;
    try {
      message = this.options.codec.decode(data) as ServerMessage;
    } catch (error) {
      this.owner.onError(error);
      return this.lost("a message could not be decoded");
    }
    const waiting = message.id === undefined ? undefined : this.replies.get(message.id);
    if (!waiting) return this.onPush(message);
    this.replies.delete(message.id!);
    if (message.type === "error") waiting.reject(errorOf(message as unknown as ErrorReply));
    else waiting.resolve(message);
  }

  private onPush(push: ServerMessage): void {
    switch (push.type) {
      case "ping":
        return this.send({ type: "pong" });
      case "expiring":
        return this.refresh();
      case "reconnect":
        this.announced = push.after_ms;
        return;
      case "error":
        if (push.id === undefined) this.owner.onError(errorOf(push as unknown as ErrorReply));
        return;
      default:
        if (this.state === "connected") this.owner.onPush(push);
    }
  }

  private onClose(code: number, reason: string, rejection?: Rejection): void {
    this.link = undefined;
    if (rejection && rejection.status < 500 && rejection.status !== 429)
      return this.stop(reason || `the handshake was refused with HTTP ${rejection.status}`, ABNORMAL_CLOSURE);
    // Retry-After holds for all who were refused; the jitter on top spreads them.
    this.end(closeRule(code), code, reason, rejection?.retryAfter, rejection !== undefined);
  }

  /** Fetch another token and go on with it. */
  private refresh(): void {
    const { tokens } = this.options;
    if (!tokens.canFetch) return;
    this.fetchToken("expiring", (token) => {
      this.request<{ expires_in?: number }>({ type: "refresh", token }).then(
        (reply) => tokens.expiresIn(reply.expires_in),
        (error: FanwayError) => error.code !== "connection_lost" && this.owner.onError(error),
      );
    });
  }

  // ---------------------------------------------------------------- signs of life

  private watchSilence(): void {
    const limit = this.info!.heartbeat * 1000 + ANSWER_MS;
    const wait = Math.max(0, this.lastHeard + limit - this.env.now());
    const due = this.env.now() + wait;
    this.startTimer(wait, () => {
      const now = this.env.now();
      if (now < this.lastHeard + limit) return this.watchSilence();
      if (now < due + LATE_MS) return this.lost("the gateway is silent");
      // The timer was held back, and so may the messages be: ask before giving up.
      this.probe();
      this.startTimer(PROBE_MS * 2, () => this.watchSilence());
    });
  }

  /** Send a `ping`; the connection is lost if nothing arrives in time. */
  private probe(): void {
    if (this.state !== "connected" || this.probeTimer !== undefined) return;
    this.request({ type: "ping" }).catch(() => {});
    this.probeTimer = this.env.setTimer(() => {
      this.probeTimer = undefined;
      this.lost("no answer to a ping");
    }, PROBE_MS);
  }

  private onPageEvent(event: PageEvent): void {
    if (event === "hide") return this.hide();
    if (event !== "offline") this.hidden = false;
    if (this.state === "connected") {
      if (this.options.tokens.expired) this.refresh();
      this.probe();
    } else if (event !== "offline" && this.isWaiting()) {
      const delay = this.notBefore - this.env.now();
      if (delay <= 0) this.begin();
      else this.scheduleAttempt(delay);
    }
  }

  /** Close for the back/forward cache, which does not keep pages with a socket. */
  private hide(): void {
    this.hidden = true;
    if (this.state !== "connected" && this.state !== "connecting") return;
    this.drop("the page is hidden");
    this.wait(0, { code: 1000, reason: "the page is hidden" });
  }

  // ---------------------------------------------------------------- ends

  private lost(reason: string): void {
    this.end(closeRule(ABNORMAL_CLOSURE), ABNORMAL_CLOSURE, reason);
  }

  private end(rule: CloseRule, code: number, reason: string, retryAfter = 0, onTop = false): void {
    const { tokens } = this.options;
    const fresh = this.freshToken;
    const announced = this.announced;
    this.drop(reason);
    if (rule.reaction === "stop") return this.stop(reason, code);
    if (rule.reaction === "stop_until_new_token") {
      if (!tokens.canFetch || fresh) return this.stop(reason, code);
      this.tokenReason = "unauthorized";
    } else if (rule.reaction === "refresh_token") {
      if (!tokens.canFetch) return this.stop(reason, code);
      this.tokenReason = "expired";
    }
    const told = rule.backoff === "told" ? announced : undefined;
    const bound = this.options.retryBound?.(this.attempt) ?? backoffBound(rule.backoff, this.attempt);
    const jitter = told ?? bound * this.env.random();
    const delay = onTop ? retryAfter + jitter : Math.max(retryAfter, jitter);
    this.notBefore = this.env.now() + Math.max(retryAfter, told ?? 0);
    this.attempt++;
    this.endpoint++;
    this.wait(delay, { code, reason });
  }

  private wait(delay: number, detail: { code: number; reason: string }): void {
    const lostAt = (this.lostAt ??= this.env.now());
    const suspended = this.state === "connecting" && this.env.now() - lostAt >= SUSPEND_MS;
    this.move(suspended ? "suspend" : "retry", { ...detail, delay });
    this.scheduleAttempt(delay);
  }

  private scheduleAttempt(delay: number): void {
    if (this.hidden) return;
    this.startTimer(delay, () => {
      // Without a network, `online` starts the attempt.
      if (this.env.online()) this.begin();
    });
  }

  private isWaiting(): boolean {
    return this.state === "waiting" || this.state === "suspended";
  }

  /** Close the socket, and forget what belongs to it. Browsers let a page close with 1000 only, of the codes below 3000. */
  private drop(reason: string): void {
    this.generation++;
    this.env.clearTimer(this.timer);
    this.env.clearTimer(this.probeTimer);
    this.probeTimer = undefined;
    this.info = undefined;
    const { link } = this;
    this.link = undefined;
    link?.close(1000, reason.slice(0, 40)); // at most 123 bytes of UTF-8 (RFC 6455 section 5.5)
    const waiting = [...this.replies.values()];
    this.replies.clear();
    const error = new FanwayError("connection_lost", "the connection ended before the reply");
    for (const { reject } of waiting) reject(error);
    if (this.state === "connected") this.owner.onDisconnected();
  }

  private send(message: unknown): void {
    this.link?.send(this.options.codec.encode(message));
  }

  private startTimer(ms: number, callback: () => void): void {
    this.env.clearTimer(this.timer);
    this.timer = this.env.setTimer(callback, ms);
  }

  private move(input: Input, detail: Omit<StateChange, "state" | "previous" | "attempt"> = {}): void {
    const previous = this.state;
    const state = TRANSITIONS[previous][input];
    if (!state) throw new Error(`a client that is ${previous} cannot ${input}`);
    this.state = state;
    if (state !== previous) this.owner.onState({ state, previous, attempt: this.attempt, ...detail });
  }
}

export const errorOf = (reply: ErrorReply): FanwayError =>
  new FanwayError(reply.code, reply.message, reply.retry_after_ms, reply.reason);
