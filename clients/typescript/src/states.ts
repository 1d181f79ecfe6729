/** The states of a connection, and every legal move between them. */

/**
 * - `idle`: nothing has asked for a connection yet.
 * - `connecting`: a token is being fetched, the socket is being opened, or `connect` has no reply yet.
 * - `connected`: the gateway has accepted `connect`.
 * - `waiting`: the next attempt begins after a delay.
 * - `suspended`: as `waiting`, without a connection for two minutes or more: tell the user.
 * - `stopped`: the client does not reconnect by itself; `connect()` begins again.
 */
export type State = "idle" | "connecting" | "connected" | "waiting" | "suspended" | "stopped";

export type Input = "connect" | "connected" | "retry" | "suspend" | "stop";

export const TRANSITIONS: Readonly<Record<State, Partial<Record<Input, State>>>> = {
  idle: { connect: "connecting", stop: "stopped" },
  connecting: { connected: "connected", retry: "waiting", suspend: "suspended", stop: "stopped" },
  connected: { retry: "waiting", stop: "stopped" },
  waiting: { connect: "connecting", stop: "stopped" },
  suspended: { connect: "connecting", stop: "stopped" },
  stopped: { connect: "connecting" },
};
