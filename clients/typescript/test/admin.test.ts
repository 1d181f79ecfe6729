/** What the admin client sends, and when it sends it again; its answers beside a gateway are in test/live. */

import { beforeEach, describe, expect, it, vi } from "vitest";
import { FanwayAdmin } from "../src/admin.js";

// The jitter before a repetition is then 0.
beforeEach(() => void vi.spyOn(Math, "random").mockReturnValue(0));

type Answer = Response | Error;

/** An admin client whose requests get *answers*, one after the other, and the bodies that it sent. */
function admin(...answers: Answer[]): { admin: FanwayAdmin; sent: any[]; urls: string[] } {
  const sent: any[] = [];
  const urls: string[] = [];
  const fetch = async (url: any, init: any) => {
    urls.push(`${init.method} ${url}`);
    sent.push(init.body === undefined ? undefined : JSON.parse(init.body));
    const answer = answers.shift() ?? Response.json({ results: [], connections: 0 });
    if (answer instanceof Error) throw answer;
    return answer;
  };
  return { admin: new FanwayAdmin("http://gateway/", "key", { fetch: fetch as typeof globalThis.fetch }), sent, urls };
}

const LOST = new TypeError("fetch failed");

describe("a publish", () => {
  it.each([[{}], [{ key: undefined }]])("with %j has one key in all attempts", async (fields) => {
    const { admin: client, sent } = admin(LOST, LOST);
    await client.publish("c", 1, fields);
    await client.broadcast(["c"], 1, fields);
    await client.notify(["u"], 1, fields);
    await client.batch([{ channel: "c", data: 1, ...fields }]);
    expect(new Set(sent.slice(0, 3).map(({ key }) => key)).size).toBe(1);
    const keys = [...sent.slice(2, 5).map(({ key }) => key), sent[5].commands[0].publish.key];
    expect(keys.every((key) => typeof key === "string")).toBe(true);
    expect(new Set(keys).size).toBe(4);
  });

  it("has the key, tags and data that it was given", async () => {
    const { admin: client, sent } = admin();
    await client.notify(["u"], null, { key: "k", tags: { a: "b" }, history: false });
    expect(sent).toEqual([{ users: ["u"], data: null, key: "k", tags: { a: "b" }, history: false }]);
  });
});

describe("a disconnect", () => {
  it("is not repeated after a lost connection", async () => {
    const { admin: client, sent } = admin(LOST);
    await expect(client.disconnect("u")).rejects.toMatchObject({ code: "connection_lost" });
    expect(sent.length).toBe(1);
  });

  it("is repeated after 503", async () => {
    const { admin: client, sent } = admin(new Response(null, { status: 503 }));
    expect(await client.disconnect("u")).toBe(0);
    expect(sent.length).toBe(2);
  });
});

describe("a lookup", () => {
  it("leaves out what is undefined, and encodes names", async () => {
    const { admin: client, urls } = admin();
    await client.channels({ prefix: "a&b", limit: undefined });
    await client.presence("@auth0%7C1", { members: false });
    await client.history("c");
    expect(urls).toEqual([
      "GET http://gateway/v1/channels?prefix=a%26b",
      "GET http://gateway/v1/channels/%40auth0%257C1/presence?members=false",
      "GET http://gateway/v1/channels/c/history",
    ]);
  });
});
