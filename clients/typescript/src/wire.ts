/** The messages of the protocol (docs/protocol.md), as they are on the wire. */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface Sender {
  connection: string;
  user: string;
}

export interface Member {
  connection: string;
  user: string;
  info?: unknown;
}

export interface MessagePush {
  type: "message";
  channel: string;
  message?: string;
  data: unknown;
  from?: Sender;
  tags?: Record<string, string>;
  time?: number;
}

export interface Subscribed {
  type: "subscribed";
  id?: number;
  channel: string;
  position?: string;
  recovered: boolean;
  messages: MessagePush[];
  members?: Member[];
  truncated?: boolean;
}

export interface ErrorReply {
  type: "error";
  id?: number;
  code: string;
  message: string;
  retry_after_ms?: number;
  reason?: string;
}

/** The limits of the gateway; a client can rely on those that it knows. */
export interface Limits {
  message_size?: number;
  channels?: number;
  /** Seconds for which the gateway remembers the key of a publish. */
  key_ttl?: number;
  [name: string]: unknown;
}

export interface Connected {
  type: "connected";
  id: number;
  connection: string;
  user: string;
  node: string;
  heartbeat: number;
  expires_in?: number;
  limits: Limits;
  subs: Record<string, Subscribed | ErrorReply>;
}

export interface GapPush {
  type: "gap";
  channel: string;
  reason: string;
  position?: string;
}

export interface UnsubscribedPush {
  type: "unsubscribed";
  id?: number;
  channel: string;
  code?: string;
  reason?: string;
}

export interface MemberPush {
  type: "join" | "leave" | "update";
  channel: string;
  member: Member;
}

export interface PresenceReply {
  type: "presence";
  id: number;
  channel: string;
  connections: number;
  users: number;
  members?: Member[];
  truncated?: boolean;
}

export interface HistoryReply {
  type: "history";
  id: number;
  channel: string;
  position?: string;
  messages: MessagePush[];
}

/** Anything that the server sends; the fields of unknown types are not looked at. */
export type ServerMessage = { type: string; id?: number } & Record<string, any>;

/** A command without its id. */
export type Command = { type: string } & Record<string, unknown>;
