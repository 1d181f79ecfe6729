/** For backends: the push API, tokens, and webhooks. Needs `fetch` and Web Crypto: Node 20, Deno, Bun, workers. */

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
  key?: string;
  tags?: Record<string, string>;
  /** Connections that do not get it. */
  exclude?: string[];
  /** False: not stored. */
  history?: boolean;
}

export interface Receipt {
  channel: string;
  message?: string;
  /** Whether the same key was published before, and this is its receipt. */
  replayed: boolean;
}

export type Result = Receipt | { error: { code: string; message: string } };

/** Calls the push API of a gateway. Publishes are repeated under their key, so that none happens twice. */
export class FanwayAdmin {
  private readonly base: string;
  private readonly fetch: typeof fetch;
  private readonly timeout: number;
  private readonly retries: number;

  /** *url* is the internal listener, such as `http://gateway:8001`. */
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
    return this.call("POST", "/v1/publish", { channel, data, key: crypto.randomUUID(), ...fields });
  }

  /** The same data to up to 1,000 channels; one result per channel, in order. */
  async broadcast(channels: readonly string[], data: unknown, fields: PublishFields = {}): Promise<Result[]> {
    return (await this.call("POST", "/v1/broadcast", { channels, data, key: crypto.randomUUID(), ...fields })).results;
  }

  /** To the personal channels of up to 1,000 users; one result per user, in order. */
  async notify(users: readonly string[], data: unknown, { key = crypto.randomUUID() as string }: { key?: string } = {}): Promise<Result[]> {
    return (await this.call("POST", "/v1/notify", { users, data, key })).results;
  }

  /** Up to 1,000 publishes; one result each, in order. */
  async batch(publishes: readonly ({ channel: string; data: unknown } & PublishFields)[]): Promise<Result[]> {
    const commands = publishes.map((publish) => ({ publish: { key: crypto.randomUUID(), ...publish } }));
    return (await this.call("POST", "/v1/batch", { commands })).results;
  }

  /** Close the connections of *user*; return how many there were. */
  async disconnect(user: string, options: { code?: number; reason?: string; except?: string[] } = {}): Promise<number> {
    return (await this.call("POST", `/v1/users/${encodeURIComponent(user)}/disconnect`, options)).connections;
  }

  async subscribe(user: string, channel: string): Promise<number> {
    return (await this.call("POST", `/v1/users/${encodeURIComponent(user)}/subscribe`, { channel })).connections;
  }

  async unsubscribe(user: string, channel: string): Promise<number> {
    return (await this.call("POST", `/v1/users/${encodeURIComponent(user)}/unsubscribe`, { channel })).connections;
  }

  presence(channel: string): Promise<{ connections: number; users: number; members?: Member[] }> {
    return this.call("GET", `/v1/channels/${encodeURIComponent(channel)}/presence`);
  }

  history(channel: string, options: { limit?: number; since?: string; reverse?: boolean } = {}): Promise<{ position?: string; messages: MessagePush[] }> {
    const query = new URLSearchParams(Object.entries(options).map(([name, value]) => [name, String(value)]));
    return this.call("GET", `/v1/channels/${encodeURIComponent(channel)}/history?${query}`);
  }

  private async call(method: string, path: string, body?: unknown): Promise<any> {
    for (let attempt = 0; ; attempt++) {
      const error = await this.attempt(method, path, body);
      if (!(error instanceof FanwayError)) return error;
      if (!error.retryable || attempt >= this.retries) throw error;
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
