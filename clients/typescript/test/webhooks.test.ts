/** Signatures of webhooks: the vectors of the reference implementation, and what no vector can hold. */

import { readFileSync } from "node:fs";
import { describe, expect, it, vi } from "vitest";
import { signWebhook, verifyWebhook, WebhookError } from "../src/webhooks.js";

interface Case {
  name: string;
  secrets: string[];
  now: number;
  headers: Record<string, string>;
  body: string;
  error?: string;
}

const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const { webhooks } = JSON.parse(readFileSync(new URL("../../../docs/vectors/webhooks.json", import.meta.url), "utf8")) as { webhooks: Case[] };
const BAD_REQUEST = ["missing_header", "invalid_timestamp", "invalid_body"];

describe.each(webhooks.map((vector) => [vector.name, vector] as const))("%s", (_name, { secrets, headers, body, now, error }) => {
  const bytes = new TextEncoder().encode(body);
  // A value of `Headers` is a ByteString.
  const asHeaders = Object.values(headers).some((value) => /[^\x00-\xff]/.test(value)) ? headers : new Headers(headers);
  it.each([
    ["a record and text", headers, body],
    ["Headers and bytes", asHeaders, bytes],
    ["Headers and a buffer", asHeaders, bytes.buffer],
  ] as const)("as %s", async (_kind, given, content) => {
    const verified = verifyWebhook(secrets, given, content, { now });
    if (error === undefined) return expect(await verified).toEqual(JSON.parse(body));
    await expect(verified).rejects.toBeInstanceOf(WebhookError);
    await expect(verified).rejects.toMatchObject({ code: error, status: BAD_REQUEST.includes(error) ? 400 : 401 });
  });
});

describe("a webhook", () => {
  it("that was signed here is accepted now", async () => {
    const headers = await signWebhook(SECRET, '{"a":1}', { id: "1" });
    expect(await verifyWebhook(SECRET, headers, '{"a":1}')).toEqual({ a: 1 });
  });

  it("may be as old as the tolerance", async () => {
    const headers = await signWebhook(SECRET, "1", { id: "1", timestamp: 1_000 });
    expect(await verifyWebhook(SECRET, headers, "1", { now: 1_010, tolerance: 10 })).toBe(1);
    await expect(verifyWebhook(SECRET, headers, "1", { now: 1_011, tolerance: 10 })).rejects.toMatchObject({ code: "too_old" });
  });

  it("with bytes that are no UTF-8 is no JSON", async () => {
    const body = Uint8Array.of(0x22, 0xff, 0x22);
    await expect(verifyWebhook(SECRET, await signWebhook(SECRET, body, { id: "1" }), body)).rejects.toMatchObject({ code: "invalid_body" });
  });

  it.each([[{ a: 1 }], [undefined], [null]])("needs the bytes of the request, not %j", async (body) => {
    await expect(verifyWebhook(SECRET, await signWebhook(SECRET, "1", { id: "1" }), body as any)).rejects.toBeInstanceOf(TypeError);
  });

  it("with many signatures takes one HMAC for each secret", async () => {
    const headers = await signWebhook(SECRET, "1", { id: "1" });
    const signature = headers["webhook-signature"]!;
    const sign = vi.spyOn(crypto.subtle, "sign");
    const other = `v1,${"A".repeat(43)}=`;
    const verified = await verifyWebhook([SECRET, "whsec_b3RoZXI="], { ...headers, "webhook-signature": `${`${other} `.repeat(1_000)}${signature}` }, "1");
    expect([verified, sign.mock.calls.length]).toEqual([1, 2]);
    sign.mockRestore();
  });

  it("may be in the middle of a buffer", async () => {
    const buffer = new TextEncoder().encode("[1]");
    expect(await verifyWebhook(SECRET, await signWebhook(SECRET, "1", { id: "1" }), buffer.subarray(1, 2))).toBe(1);
  });

  it("with a header twice is not accepted", async () => {
    const headers = await signWebhook(SECRET, "1", { id: "1" });
    const twice = { ...headers, "webhook-id": ["1", "1"] };
    await expect(verifyWebhook(SECRET, twice, "1")).rejects.toMatchObject({ code: "missing_header" });
  });

  it.each([[""], ["whsec_"], ["whsec_not base64!"], [[]], [[SECRET, ""]]])("needs a secret: %j", async (secrets) => {
    await expect(verifyWebhook(secrets, {}, "1")).rejects.toBeInstanceOf(TypeError);
  });
});
