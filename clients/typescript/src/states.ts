/** The states of a connection. */

/**
 * - `idle`: nothing has asked for a connection yet.
 * - `connecting`: a token is being fetched, the socket is being opened, or `connect` has no reply yet.
 * - `connected`: the gateway has accepted `connect`.
 * - `waiting`: the next attempt begins after a delay.
 * - `suspended`: as `waiting`, without a connection for two minutes or more: tell the user.
 * - `stopped`: the client does not reconnect by itself; `connect()` begins again.
 *
 * `connecting` follows after every state but `connected`, `connected` after `connecting`, `waiting` after these two,
 * `suspended` after `connecting`, and `stopped` after every state.
 */
export type State = "idle" | "connecting" | "connected" | "waiting" | "suspended" | "stopped";
