/** What a promise of this library rejects with. */

/** Codes of the gateway (docs/protocol.md#errors). */
export type ServerErrorCode =
  | "bad_request"
  | "unauthorized"
  | "permission_denied"
  | "unknown_channel"
  | "already_subscribed"
  | "not_subscribed"
  | "limit_exceeded"
  | "rate_limited"
  | "too_large"
  | "token_expired"
  | "unavailable"
  | "internal"
  | "rejected"
  | "key_reused";

/**
 * Codes of this library:
 *
 * - `connection_lost`: the connection ended before the reply; the command may have been carried out.
 * - `timeout`: no reply in time, and the command was never sent.
 * - `uncertain`: a publish was sent, and whether it happened is not known. It is not sent again.
 * - `queue_full`: too many publishes wait for a connection.
 * - `overflow`: a `for await` loop was too slow for its buffer.
 * - `stopped`: the client has stopped.
 * - `not_connected`: the command needs a connection, and there is none.
 */
export type LocalErrorCode =
  | "connection_lost"
  | "timeout"
  | "uncertain"
  | "queue_full"
  | "overflow"
  | "stopped"
  | "not_connected";

export type ErrorCode = ServerErrorCode | LocalErrorCode | (string & {});

/** Errors after which the same command may succeed later. */
export const TRANSIENT_CODES: ReadonlySet<string> = new Set(["rate_limited", "unavailable", "internal"]);

export class FanwayError extends Error {
  override name = "FanwayError";

  constructor(
    /** For programs. */
    readonly code: ErrorCode,
    /** For people; the text may change. */
    message: string,
    /** Milliseconds to wait before another try, where the gateway named them. */
    readonly retryAfter?: number,
    /** The reason that the application's backend gave, for `rejected`. */
    readonly reason?: string,
  ) {
    super(message);
  }

  /** Whether the same command may succeed later. */
  get retryable(): boolean {
    return TRANSIENT_CODES.has(this.code) || this.code === "connection_lost" || this.code === "timeout";
  }
}

/** Throw it from `getToken` to stop the client: the user is signed out, and no other try will help. */
export class UnauthorizedError extends Error {
  override name = "UnauthorizedError";
}
