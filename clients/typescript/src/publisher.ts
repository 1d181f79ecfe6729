/** Publishes on their way: sent now or when there is a connection, again under the same key, never twice. */

import type { Connection } from "./connection.js";
import type { Environment } from "./environment.js";
import { FanwayError, TRANSIENT_CODES } from "./errors.js";
import type { Connected } from "./wire.js";

export interface PublishOptions {
  /** Publishes with the same key in the same channel happen once; generated where it is not given. */
  key?: string;
  /** Milliseconds until the promise rejects; 30,000 by default. */
  timeout?: number;
  signal?: AbortSignal;
}

export interface Published {
  channel: string;
  /** The message id; absent where the channel keeps no history. */
  id?: string;
  key: string;
}

interface Entry {
  readonly channel: string;
  readonly data: unknown;
  readonly key: string;
  /** When it was first sent; undefined as long as it was not. */
  _sentAt: number | undefined;
  _attempts: number;
  _retryTimer: unknown;
  _settle(result: Published | FanwayError | unknown): void;
}

/** Publishes that may wait at once; one more is rejected. */
export const MAX_QUEUED = 1_000;
const TIMEOUT_MS = 30_000;
/** Seconds for which every gateway remembers a key; `limits.key_ttl` says it where it is known. */
const KEY_TTL = 300;

export class Publisher {
  private readonly _entries = new Set<Entry>();
  private _keyTtl = KEY_TTL;
  private _user: string | undefined;

  constructor(
    private readonly _env: Environment,
    private readonly _connection: Connection,
    private readonly _retry: (attempt: number, retryAfter: number | undefined) => number,
  ) {}

  publish(channel: string, data: unknown, options: PublishOptions = {}): Promise<Published> {
    const { signal, timeout = TIMEOUT_MS, key = this._env.key() } = options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      if (this._connection.state === "stopped") return reject(new FanwayError("stopped", "the client has stopped"));
      if (this._entries.size >= MAX_QUEUED) return reject(new FanwayError("queue_full", `${MAX_QUEUED} publishes wait already`));
      const abort = () => entry._settle(this._uncertain(entry) ?? signal!.reason);
      const timer = this._env.setTimer(
        () => entry._settle(this._uncertain(entry) ?? new FanwayError("timeout", "no connection in time: it was not published")),
        timeout,
      );
      const entry: Entry = {
        channel,
        data,
        key,
        _sentAt: undefined,
        _attempts: 0,
        _retryTimer: undefined,
        _settle: (result) => {
          if (!this._entries.delete(entry)) return;
          this._env.clearTimer(timer);
          this._env.clearTimer(entry._retryTimer);
          signal?.removeEventListener("abort", abort);
          if (result instanceof Error || !(result as Published)?.key) reject(result);
          else resolve(result as Published);
        },
      };
      signal?.addEventListener("abort", abort);
      this._entries.add(entry);
      this._send(entry);
    });
  }

  /** Send what waits, in the order of the calls. */
  _onConnected(reply: Connected): void {
    // The gateway scopes the keys of an anonymous client to the connection: another try there could publish twice.
    const sameScope = reply.user !== "" && (this._user === undefined || this._user === reply.user);
    this._user = reply.user;
    this._keyTtl = reply.limits?.key_ttl ?? KEY_TTL;
    for (const entry of [...this._entries]) {
      if (entry._sentAt !== undefined && !sameScope) entry._settle(this._uncertain(entry));
      else this._send(entry);
    }
  }

  /** Publishes that are not settled. */
  get _size(): number {
    return this._entries.size;
  }

  /** Reject what waits: the client has stopped. */
  stop(): void {
    for (const entry of [...this._entries])
      entry._settle(this._uncertain(entry) ?? new FanwayError("stopped", "the client has stopped: it was not published"));
  }

  private _uncertain(entry: Entry): FanwayError | undefined {
    if (entry._sentAt === undefined) return undefined;
    return new FanwayError("uncertain", "no reply: it may have been published");
  }

  private _send(entry: Entry): void {
    if (this._connection.state !== "connected") return;
    this._env.clearTimer(entry._retryTimer);
    const now = this._env.now();
    if (entry._sentAt !== undefined && now - entry._sentAt >= this._keyTtl * 1000) return entry._settle(this._uncertain(entry));
    if (entry._sentAt === undefined) entry._sentAt = now;
    const { channel, data, key } = entry;
    this._connection.request<{ message?: string }>({ type: "publish", channel, data, key }).then(
      ({ message: id }) => entry._settle({ channel, key, id }),
      (error: FanwayError) => this._onRejected(entry, error),
    );
  }

  private _onRejected(entry: Entry, error: FanwayError): void {
    if (error.code === "connection_lost") return; // sent again when connected
    if (!TRANSIENT_CODES.has(error.code)) return entry._settle(error);
    // `rate_limited` was not carried out; the others may have been, which the key takes care of.
    if (error.code === "rate_limited" && entry._attempts === 0) entry._sentAt = undefined;
    const delay = this._retry(entry._attempts++, error.retryAfter);
    entry._retryTimer = this._env.setTimer(() => this._send(entry), delay);
  }
}
