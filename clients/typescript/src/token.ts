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
  private token: string | undefined;
  private expiresAt = Infinity;
  private pending: Promise<string | undefined> | undefined;

  constructor(
    private readonly env: Environment,
    private readonly getToken: GetToken | undefined,
  ) {}

  /** Whether another token can be had. */
  get canFetch(): boolean {
    return this.getToken !== undefined;
  }

  /** Return the reason to fetch a token before a new connection, or undefined if the present one will do. */
  needed(): TokenReason | undefined {
    if (!this.getToken) return undefined;
    if (this.token === undefined) return "connect";
    return this.expiresAt - this.env.now() < MARGIN_MS ? "expired" : undefined;
  }

  /** The present token; undefined before the first `fetch`. */
  get current(): string | undefined {
    return this.token;
  }

  /** Use *token* from now on. */
  set(token: string | undefined): void {
    this.token = token;
    this.expiresAt = Infinity;
  }

  /** Note how long the gateway says the present token lasts. */
  expiresIn(seconds: number | undefined): void {
    this.expiresAt = seconds === undefined ? Infinity : this.env.now() + seconds * 1000;
  }

  /** Whether the present token has expired by the clock; timers do not run while a machine sleeps. */
  get expired(): boolean {
    return this.env.now() >= this.expiresAt;
  }

  /** Fetch a token; callers at the same time share one call of `getToken`. */
  fetch(reason: TokenReason): Promise<string | undefined> {
    this.pending ??= (async () => this.getToken?.(reason))()
      .then((token) => {
        this.set(token);
        return token;
      })
      .finally(() => {
        this.pending = undefined;
      });
    return this.pending;
  }
}
