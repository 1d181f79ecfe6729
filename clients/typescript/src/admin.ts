/** For backends: the push API and tokens; webhooks are in `webhooks.ts`. Needs `fetch` and Web Crypto: Node 20, Deno, Bun, workers. */

import { backoffBound } from "./closes.js";
import { FanwayError } from "./errors.js";
import type { Member, MessagePush } from "./wire.js";

export interface AdminOptions {
  fetch?: typeof fetch;
  /** Milliseconds of one request; 10,000 by default. */
  timeout?: number;
  /** How often a request is repeated after 429, 503 and a lost connection; 3 by default. */
  retries?: number;
}

export interface PublishFields {
  /** The same key publishes once; one is made up where it is absent. */
  key?: string;
  /** Strings that travel with the message. */
  tags?: Record<string, string>;
  /** Connections that do not get it. */
  exclude?: readonly string[];
  /** False: not stored. */
  history?: boolean;
  /** Whether the answer waits until a replica of Redis has it. */
  acknowledge?: "stored" | "replicated";
}

export interface Receipt {
  channel: string;
  /** The message id, where the channel keeps history. */
  message?: string;
  /** Whether the same key was published before, and this is its receipt. */
  replayed: boolean;
  acknowledged?: "stored" | "replicated";
  /** For `notify`: whose personal channel it is. */
  user?: string;
}

export type Result = Receipt | { channel?: string; user?: string; error: { code: string; message: string; retry_after_ms?: number } };

export interface ConnectionInfo {
  connection: string;
  node: string;
  channels: string[];
  /** Unix seconds. */
  since: number;
}

/** Calls the push API of a gateway. Publishes are repeated under their key, so that none happens twice. */
export class FanwayAdmin {
  private readonly base: string;
  private readonly fetch: typeof fetch;
  private readonly timeout: number;
  private readonly retries: number;

  /** *url* is the internal listener, such as `http://gateway:8001`; *key* is a push key. */
  constructor(
    url: string,
    private readonly key: string,
    options: AdminOptions = {},
  ) {
    this.base = url.replace(/\/$/, "");
    this.fetch = options.fetch ?? ((...args) => fetch(...args));
    this.timeout = options.timeout ?? 10_000;
    this.retries = options.retries ?? 3;
  }

  publish(channel: string, data: unknown, fields: PublishFields = {}): Promise<Receipt> {
    return this.call("POST", "/v1/publish", { ...fields, channel, data, key: keyOf(fields) });
  }

  /** The same data to up to 1,000 channels; one result per channel, in order. */
  async broadcast(channels: readonly string[], data: unknown, fields: PublishFields = {}): Promise<Result[]> {
    return (await this.call("POST", "/v1/broadcast", { ...fields, channels, data, key: keyOf(fields) })).results;
  }

  /** To the personal channels of up to 1,000 users; one result per user, in order. */
  async notify(users: readonly string[], data: unknown, fields: PublishFields = {}): Promise<Result[]> {
    return (await this.call("POST", "/v1/notify", { ...fields, users, data, key: keyOf(fields) })).results;
  }

  /** Up to 1,000 publishes; one result each, in order. */
  async batch(publishes: readonly ({ channel: string; data: unknown } & PublishFields)[]): Promise<Result[]> {
    const commands = publishes.map((publish) => ({ publish: { ...publish, key: keyOf(publish) } }));
    return (await this.call("POST", "/v1/batch", { commands })).results;
  }

  /** Close the connections of *user* but those in `except`; return how many. Not repeated after a lost connection: the user may be back. */
  async disconnect(user: string, options: { code?: number; reason?: string; except?: readonly string[] } = {}): Promise<number> {
    return (await this.call("POST", `/v1/users/${encodeURIComponent(user)}/disconnect`, options, false)).connections;
  }

  /** Subscribe the connections of *user*; return how many. */
  async subscribe(user: string, channel: string): Promise<number> {
    return (await this.call("POST", `/v1/users/${encodeURIComponent(user)}/subscribe`, { channel })).connections;
  }

  /** Unsubscribe the connections of *user*; return how many. */
  async unsubscribe(user: string, channel: string): Promise<number> {
    return (await this.call("POST", `/v1/users/${encodeURIComponent(user)}/unsubscribe`, { channel })).connections;
  }

  /** Who is in *channel*; a `cursor` in the answer begins the next page of members. */
  presence(
    channel: string,
    options: { members?: boolean; limit?: number; cursor?: string } = {},
  ): Promise<{ channel: string; connections: number; users: number; members?: Member[]; truncated?: boolean; cursor?: string }> {
    return this.call("GET", `/v1/channels/${encodeURIComponent(channel)}/presence${query(options)}`);
  }

  /** Messages kept, after `since`, or with `reverse` the newest first, before `since`. */
  history(channel: string, options: { limit?: number; since?: string; reverse?: boolean } = {}): Promise<{ channel: string; position: string; messages: MessagePush[] }> {
    return this.call("GET", `/v1/channels/${encodeURIComponent(channel)}/history${query(options)}`);
  }

  /** Delete the messages kept of *channel*; the numbering continues. */
  async clearHistory(channel: string): Promise<void> {
    await this.call("DELETE", `/v1/channels/${encodeURIComponent(channel)}/history`);
  }

  /** Channels that have subscribers, by name; a `cursor` in the answer begins the next page. */
  channels(
    options: { prefix?: string; limit?: number; cursor?: string } = {},
  ): Promise<{ channels: { channel: string; subscribers: number }[]; cursor?: string; partial?: boolean }> {
    return this.call("GET", `/v1/channels${query(options)}`);
  }

  /** One channel: its subscribers, the users present, the position, and how many messages are kept. */
  channel(channel: string): Promise<{ channel: string; subscribers: number; users?: number; position?: string; history: number; partial?: boolean }> {
    return this.call("GET", `/v1/channels/${encodeURIComponent(channel)}`);
  }

  /** The connections of *user*, on every node. */
  user(user: string): Promise<{ user: string; connections: ConnectionInfo[]; partial?: boolean }> {
    return this.call("GET", `/v1/users/${encodeURIComponent(user)}`);
  }

  /** The live nodes; `uptime` in seconds. */
  async nodes(): Promise<{ node: string; connections: number; channels: number; subscriptions: number; uptime: number }[]> {
    return (await this.call("GET", "/v1/nodes")).nodes;
  }

  /** Sums over the live nodes. */
  stats(): Promise<{ nodes: number; connections: number; channels: number; subscriptions: number }> {
    return this.call("GET", "/v1/stats");
  }

  /** *repeatable*: whether the call may be sent again when its answer is lost. */
  private async call(method: string, path: string, body?: unknown, repeatable = true): Promise<any> {
    for (let attempt = 0; ; attempt++) {
      const error = await this.attempt(method, path, body);
      if (!(error instanceof FanwayError)) return error;
      const lost = error.code === "connection_lost";
      if (!error.retryable || attempt >= this.retries || (lost && !repeatable)) throw error;
      const wait = Math.max(error.retryAfter ?? 0, backoffBound("jitter", attempt) * Math.random());
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  /** Return the answer, or the error that it is. */
  private async attempt(method: string, path: string, body: unknown): Promise<any> {
    let response: Response;
    try {
      response = await this.fetch(this.base + path, {
        method,
        headers: { authorization: `Bearer ${this.key}`, ...(body !== undefined && { "content-type": "application/json" }) },
        ...(body !== undefined && { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(this.timeout),
      });
    } catch (error) {
      return new FanwayError("connection_lost", `${method} ${path}: ${error}`);
    }
    const answer: any = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    const { code, message, retry_after_ms } = answer.error ?? {};
    const fallback = response.status === 429 || response.status >= 500 ? "unavailable" : "bad_request";
    return new FanwayError(code ?? fallback, message ?? `${method} ${path}: HTTP ${response.status}`, retry_after_ms);
  }
}

/** A publish that is repeated without a key would happen twice. */
const keyOf = ({ key }: PublishFields): string => key ?? crypto.randomUUID();

function query(options: object): string {
  const given = Object.entries(options).flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value)]]));
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

export interface TokenClaims {
  /** The user. */
  sub: string;
  /** Shown in presence. */
  info?: unknown;
  /** Channels that the gateway subscribes the user to. */
  channels?: string[];
  /** For a channel token: the channel. */
  channel?: string;
  [claim: string]: unknown;
}

const encoder = new TextEncoder();

const hmacKey = (secret: Uint8Array<ArrayBuffer>, usage: KeyUsage) => crypto.subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-256" }, false, [usage]);

const base64url = (bytes: Uint8Array): string =>
  btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

/** Return a token (JWT, HS256) that `auth.secret` of the gateway verifies; *ttl* in seconds, at most a day. */
export async function mintToken(secret: string, claims: TokenClaims, { ttl = 3_600 }: { ttl?: number } = {}): Promise<string> {
  const now = Math.floor(Date.now() / 1000);
  const part = (value: unknown) => base64url(encoder.encode(JSON.stringify(value)));
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ iat: now, exp: now + ttl, ...claims })}`;
  const signature = await crypto.subtle.sign("HMAC", await hmacKey(encoder.encode(secret), "sign"), encoder.encode(signed));
  return `${signed}.${base64url(new Uint8Array(signature))}`;
}
