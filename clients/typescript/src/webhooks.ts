/** For backends: whether a request comes from the gateway, by its signature (Standard Webhooks). Needs Web Crypto: Node 20, Deno, Bun, workers. */

/** Seconds that the time stamp of a webhook may be from this machine's time; the gateway signs each attempt anew. */
export const TOLERANCE = 300;

/** 400 for a malformed request, 401 for one that is not authentic. */
const STATUS = {
  missing_header: 400,
  invalid_timestamp: 400,
  too_old: 401,
  too_new: 401,
  no_matching_signature: 401,
  /** The signature matches, but the body is no JSON. */
  invalid_body: 400,
} as const;

export type WebhookErrorCode = keyof typeof STATUS;

/** A request is not a webhook of the gateway, or not one that can be read. */
export class WebhookError extends Error {
  override readonly name = "WebhookError";
  /** The HTTP status to answer with. */
  readonly status: 400 | 401;

  constructor(
    readonly code: WebhookErrorCode,
    message: string,
  ) {
    super(`${code}: ${message}`);
    this.status = STATUS[code];
  }
}

/** `Headers` of fetch, or the `headers` of a request in Node and Express. */
export type WebhookHeaders = { get(name: string): string | null } | Record<string, string | readonly string[] | undefined>;

export interface VerifyOptions {
  /** Seconds that the time stamp may be in the past or in the future; 300 by default. */
  tolerance?: number;
  /** Seconds since 1970; the clock's by default. */
  now?: number;
}

/**
 * Return the payload of a webhook, which is *body* as JSON, after its signature was verified.
 *
 * *secrets* is the secret that the gateway signs with, `whsec_…`, or several while one replaces the other. *body* is the
 * bytes of the request as they arrived: JSON that was parsed and written again has other bytes. The same `webhook-id` may
 * arrive more than once: it is a repetition.
 *
 * Throws `WebhookError`, and `TypeError` for secrets that are none and for a parsed body: then your code is wrong, not the request.
 */
export async function verifyWebhook<Payload = any>(
  secrets: string | readonly string[],
  headers: WebhookHeaders,
  body: string | Uint8Array | ArrayBuffer,
  { tolerance = TOLERANCE, now = Date.now() / 1000 }: VerifyOptions = {},
): Promise<Payload> {
  const keys = (typeof secrets === "string" ? [secrets] : secrets).map(keyOf);
  if (!keys.length) throw new TypeError("secrets: expected at least one, whsec_ and base64; take that of the gateway's configuration");
  const content = bytes(body);
  const [id, timestamp, signatures] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map((name) => header(headers, name)) as [string, string, string];
  requireRecent(timestamp, now, tolerance);
  const signed = signedContent(id, timestamp, content);
  const given = signatures.split(" ").map((signature) => (signature.startsWith("v1,") && decode(signature.slice(3))) || new Uint8Array());
  // One HMAC for each secret, however many signatures a stranger sends.
  const expected = await Promise.all(keys.map(async (key) => new Uint8Array(await hmac(key, signed))));
  if (!expected.some((mac) => given.some((signature) => equal(mac, signature)))) {
    throw new WebhookError("no_matching_signature", "no signature in webhook-signature is by a known secret");
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content));
  } catch (error) {
    throw new WebhookError("invalid_body", `the body is no JSON: ${error}`);
  }
}

/** Return the headers of a webhook with *body*, signed as the gateway does: for tests of an application. *timestamp* in seconds since 1970. */
export async function signWebhook(
  secret: string,
  body: string | Uint8Array | ArrayBuffer,
  { id, timestamp = Date.now() / 1000 }: { id: string; timestamp?: number },
): Promise<Record<string, string>> {
  const sent = String(Math.floor(timestamp));
  const mac = await hmac(keyOf(secret), signedContent(id, sent, bytes(body)));
  return { "webhook-id": id, "webhook-timestamp": sent, "webhook-signature": `v1,${btoa(String.fromCharCode(...new Uint8Array(mac)))}` };
}

const encoder = new TextEncoder();

function bytes(body: string | Uint8Array | ArrayBuffer): Uint8Array {
  if (typeof body === "string") return encoder.encode(body);
  if (ArrayBuffer.isView(body)) return new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
  // Not instanceof: tests in a browser's environment have an ArrayBuffer of their own.
  if (Object.prototype.toString.call(body) === "[object ArrayBuffer]") return new Uint8Array(body);
  throw new TypeError("body: expected the text or the bytes of the request as they arrived, before anything parsed them");
}

async function hmac(key: Uint8Array<ArrayBuffer>, content: Uint8Array<ArrayBuffer>): Promise<ArrayBuffer> {
  return crypto.subtle.sign("HMAC", await crypto.subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]), content);
}

/** Whether both are equal, in a time that does not depend on which bytes differ. */
function equal(one: Uint8Array, other: Uint8Array): boolean {
  if (one.length !== other.length) return false;
  let difference = 0;
  one.forEach((byte, index) => (difference |= byte ^ other[index]!));
  return difference === 0;
}

function signedContent(id: string, timestamp: string, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const head = encoder.encode(`${id}.${timestamp}.`);
  const content = new Uint8Array(head.length + body.length);
  content.set(head);
  content.set(body, head.length);
  return content;
}

/** The bytes of base64, with or without its padding; undefined for other text. */
function decode(base64: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}

function keyOf(secret: string): Uint8Array<ArrayBuffer> {
  const key = decode(secret.replace(/^whsec_/, ""));
  if (!key?.length) throw new TypeError("a secret: expected whsec_ and base64; take that of the gateway's configuration");
  return key;
}

function header(headers: WebhookHeaders, name: string): string {
  const value = typeof headers.get === "function" ? (headers as Headers).get(name) : valueOf(headers as Record<string, unknown>, name);
  if (typeof value !== "string" || !value) throw new WebhookError("missing_header", `the request has no header ${name}`);
  return value;
}

const valueOf = (headers: Record<string, unknown>, name: string): unknown => Object.entries(headers).find(([key]) => key.toLowerCase() === name)?.[1];

function requireRecent(timestamp: string, now: number, tolerance: number): void {
  if (!/^[0-9]{1,12}$/.test(timestamp)) throw new WebhookError("invalid_timestamp", "webhook-timestamp: expected seconds since 1970");
  const age = now - Number(timestamp);
  if (age > tolerance) throw new WebhookError("too_old", `it was signed ${Math.round(age)} s ago, more than ${tolerance} s`);
  if (-age > tolerance) throw new WebhookError("too_new", `it was signed ${Math.round(-age)} s in the future; compare the clocks`);
}
