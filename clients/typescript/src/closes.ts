/** What the client does when a connection ends; docs/vectors/closes.json holds this table. */

import type { TokenReason } from "./token.js";

/** `jitter` doubles from 0.5 s to 30 s, `long` is 30 s at once, `told` is the delay of the `reconnect` push. */
export type Backoff = "jitter" | "long" | "told";

export interface CloseRule {
  /** Do not connect again. */
  _stop?: boolean;
  /** Fetch another token first, for this reason; stop if there is none to be had. */
  _token?: TokenReason;
  _backoff: Backoff;
}

const RECONNECT: CloseRule = { _backoff: "jitter" };
const LATER: CloseRule = { _backoff: "long" };
const STOP: CloseRule = { _stop: true, _backoff: "jitter" };

const RULES: Readonly<Record<number, CloseRule>> = {
  1002: STOP,
  1007: STOP,
  1009: STOP,
  4000: { _backoff: "told" },
  4002: STOP,
  4003: { _token: "unauthorized", _backoff: "jitter" },
  4004: { _token: "expired", _backoff: "jitter" },
  4005: STOP,
  4008: LATER,
  4010: LATER,
  4012: STOP,
};

/** The code of a connection that ended without a Close frame (RFC 6455 section 7.4.1). */
export const ABNORMAL_CLOSURE = 1006;

/** Return the rule of a close code; any code without an entry reconnects with jitter. */
export const closeRule = (code: number): CloseRule => RULES[code] ?? RECONNECT;

/** The close code that follows a `connect` that was refused with an error code. */
export const CLOSE_OF_ERROR: Readonly<Record<string, number>> = {
  unauthorized: 4003,
  permission_denied: 4003,
  token_expired: 4004,
  limit_exceeded: 4010,
  unavailable: 4011,
  internal: 4011,
};

/** Return the longest wait in milliseconds before attempt number *attempt* (0 is the first after `connected`). */
export const backoffBound = (backoff: Backoff, attempt: number): number =>
  backoff === "long" ? 30_000 : Math.min(30_000, 500 * 2 ** Math.min(attempt, 32));
