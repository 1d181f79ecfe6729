/** The token of the connection: fetched once at a time, and known to expire. */

import type { Environment } from "./environment.js";

/**
 * - `connect`: there is none yet.
 * - `expired`: the present one has expired, or will before it could be used.
 * - `expiring`: the connection goes on with another one.
 * - `unauthorized`: the gateway refused the present one.
 */
export type TokenReason = "connect" | "expired" | "expiring" | "unauthorized";

export type GetToken = (reason: TokenReason) => string | undefined | Promise<string | undefined>;

/** A token that expires sooner than this is not used for a new connection. */
const MARGIN_MS = 5_000;

export class TokenSource {
  private _token: string | undefined;
  private _expiresAt = Infinity;
  private _pending: Promise<string | undefined> | undefined;

  constructor(
    private readonly _env: Environment,
    private readonly _getToken: GetToken | undefined,
  ) {}

  /** Whether another token can be had. */
  get _canFetch(): boolean {
    return this._getToken !== undefined;
  }

  /** Return the reason to fetch a token before a new connection, or undefined if the present one will do. */
  _needed(): TokenReason | undefined {
    if (!this._getToken) return undefined;
    if (this._token === undefined) return "connect";
    return this._expiresAt - this._env.now() < MARGIN_MS ? "expired" : undefined;
  }

  /** The present token; undefined before the first `fetch`. */
  get current(): string | undefined {
    return this._token;
  }

  /** Use *token* from now on. */
  set(token: string | undefined): void {
    this._token = token;
    this._expiresAt = Infinity;
  }

  /** Note how long the gateway says the present token lasts. */
  _expiresIn(seconds: number | undefined): void {
    this._expiresAt = seconds === undefined ? Infinity : this._env.now() + seconds * 1000;
  }

  /** Whether the present token has expired by the clock; timers do not run while a machine sleeps. */
  get expired(): boolean {
    return this._env.now() >= this._expiresAt;
  }

  /** Fetch a token; callers at the same time share one call of `getToken`. */
  fetch(reason: TokenReason): Promise<string | undefined> {
    this._pending = this._pending ?? (async () => this._getToken?.(reason))()
      .then((token) => {
        this.set(token);
        return token;
      })
      .finally(() => {
        this._pending = undefined;
      });
    return this._pending;
  }
}
