/** The client beside a real gateway, over real sockets. */

import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { encode } from "@msgpack/msgpack";
import { browser, FanwayError, UnauthorizedError } from "../../src/index.js";
import { msgpack } from "../../src/msgpack.js";
import { LivePresence } from "../../src/presence.js";
import type { Environment, Fanway, Message, PageEvent } from "../../src/index.js";
import { admin, client, fresh, Proxy, PUBLIC, reached, token } from "./gateway.js";

let proxy: Proxy;
let clients: Fanway[];

/** A client that the test need not close. */
const open: typeof client = (...args) => {
  const fanway = client(...args);
  clients.push(fanway);
  return fanway;
};

/** Resolve with *count* messages of *channel*. */
async function take(channel: AsyncIterable<Message>, count: number): Promise<unknown[]> {
  const taken: unknown[] = [];
  for await (const message of channel) {
    taken.push(message.data);
    if (taken.length === count) break;
  }
  return taken;
}

beforeEach(async () => {
  proxy = await Proxy.start();
  clients = [];
});

afterEach(async () => {
  await Promise.all(clients.map((fanway) => fanway.close()));
  await proxy.stop();
});

describe("messages", () => {
  it("of a backend arrive in a loop", async () => {
    const name = fresh();
    const fanway = open(PUBLIC, { user: "ann" });
    const messages = fanway.channel(name).messages();
    await reached(fanway, "connected");
    await admin.publish(name, { n: 1 });
    await admin.publish(name, { n: 2 });
    expect(await take(messages, 2)).toEqual([{ n: 1 }, { n: 2 }]);
  });

  it("of an https URL: the same path and scheme as a WebSocket", async () => {
    const fanway = open(PUBLIC.replace(/^ws/, "http").replace(/\/v1\/ws$/, ""), { user: "ann" });
    fanway.connect();
    await reached(fanway, "connected");
    expect(fanway.info?.user).toBe("ann");
  });

  it("are all there after many cuts, once each and in order", async () => {
    const name = fresh();
    const fanway = open(proxy.url, { user: "ann" });
    const numbers: number[] = [];
    const gaps: unknown[] = [];
    const channel = fanway.channel(name);
    channel.on("gap", (gap) => gaps.push(gap));
    const count = 300;
    const complete = new Promise<void>((resolve) => {
      channel.on("message", ({ data }) => {
        numbers.push(data as number);
        if (numbers.length === 100 || numbers.length === 200) proxy.cut();
        if (data === count) resolve();
      });
    });
    await reached(fanway, "connected");
    for (let n = 1; n <= count; n++) {
      await admin.publish(name, n);
      if (n % 40 === 0) proxy.cut();
    }
    await complete;
    expect(numbers).toEqual(Array.from({ length: count }, (_, index) => index + 1));
    expect(gaps).toEqual([]);
    expect(proxy.accepted).toBeGreaterThan(3);
  });

  it("of two codecs are the same", async () => {
    const name = fresh();
    const one = open(PUBLIC, { user: "ann" });
    const two = open(PUBLIC, { user: "ben", codec: msgpack });
    const [first, second] = [one.channel(name).messages(), two.channel(name).messages()];
    await Promise.all([reached(one, "connected"), reached(two, "connected")]);
    const data = { text: "é", list: [1, 2.5, null, true], nested: { a: {} } };
    await two.channel(name).publish(data);
    expect((await first.next()).value.data).toEqual(data);
    expect((await second.next()).value.data).toEqual(data);
    expect(encode(data).length).toBeGreaterThan(0);
  });

  it("begin with a rewind", async () => {
    const name = fresh();
    for (let n = 1; n <= 5; n++) await admin.publish(name, n);
    expect(await take(open(PUBLIC, { user: "ann" }).channel(name, { rewind: 2 }), 2)).toEqual([4, 5]);
  });
});

describe("a gap", () => {
  it("is told where history no longer reaches back", async () => {
    const name = fresh("short"); // keeps two messages
    const fanway = open(proxy.url, { user: "ann" });
    const channel = fanway.channel(name);
    const seen: unknown[] = [];
    const gap = new Promise((resolve) => channel.on("gap", resolve));
    channel.on("message", ({ data }) => seen.push(data));
    await reached(fanway, "connected");
    await admin.publish(name, 1);
    await expect.poll(() => seen).toEqual([1]);
    proxy.refusing = true;
    proxy.cut();
    await reached(fanway, "waiting");
    for (let n = 2; n <= 6; n++) await admin.publish(name, n);
    proxy.refusing = false;
    expect(await gap).toMatchObject({ channel: name, reason: "not_recovered" });
    await admin.publish(name, 7);
    await expect.poll(() => seen).toEqual([1, 7]);
  });

  it("loads the state, which joins the stream without a hole", async () => {
    const name = fresh("short");
    const state: number[] = [];
    const fanway = open(proxy.url, { user: "ann" });
    const loads: string[] = [];
    const channel = fanway.channel(name, {
      async loadState({ reason }) {
        loads.push(reason);
        const { messages, position } = await admin.history(name);
        state.splice(0, Infinity, ...messages.map(({ data }) => data as number));
        return { position };
      },
    });
    for (let n = 1; n <= 2; n++) await admin.publish(name, n);
    channel.on("message", ({ data }) => state.push(data as number));
    await expect.poll(() => state).toEqual([1, 2]);
    proxy.refusing = true;
    proxy.cut();
    await reached(fanway, "waiting");
    for (let n = 3; n <= 9; n++) await admin.publish(name, n);
    proxy.refusing = false;
    await expect.poll(() => state).toEqual([8, 9]);
    await admin.publish(name, 10);
    await expect.poll(() => state).toEqual([8, 9, 10]);
    expect(loads).toEqual(["first", "gap"]);
  });
});

describe("publish", () => {
  it("returns the id of the message that the publisher gets too", async () => {
    const name = fresh();
    const channel = open(PUBLIC, { user: "ann" }).channel(name);
    const messages = channel.messages();
    const { id } = await channel.publish("hello");
    expect(await messages.next()).toMatchObject({ value: { id, data: "hello", from: { user: "ann" } } });
  });

  it("is visible once, whatever is cut", async () => {
    const name = fresh();
    const channel = open(proxy.url, { user: "ann" }).channel(name);
    const count = 60;
    for (let n = 0; n < count; n++) {
      const published = channel.publish(n);
      if (n % 7 === 0) setImmediate(() => proxy.cut());
      await published;
    }
    const { messages } = await admin.history(name, { limit: 1000 });
    expect(messages.map(({ data }) => data)).toEqual(Array.from({ length: count }, (_, n) => n));
  });

  it("of an anonymous client that was cut is uncertain", async () => {
    const name = fresh("open");
    const fanway = open(proxy.url);
    fanway.connect();
    await reached(fanway, "connected");
    proxy.stall();
    const published = fanway.channel(name).publish(1);
    proxy.cut();
    await expect(published).rejects.toMatchObject({ code: "uncertain" });
  });

  it("rejects with the gateway's code", async () => {
    const denied = open(PUBLIC, { user: "ann" }).channel(fresh("quiet")).publish(1);
    await expect(denied).rejects.toBeInstanceOf(FanwayError);
    await expect(denied).rejects.toMatchObject({ code: "permission_denied", retryable: false });
  });

  it("aborts", async () => {
    proxy.refusing = true;
    const published = open(proxy.url, { user: "ann" }).channel(fresh()).publish(1, { signal: AbortSignal.timeout(50) });
    await expect(published).rejects.toMatchObject({ name: "TimeoutError" });
  });
});

describe("tokens", () => {
  it("are refreshed before they expire", async () => {
    let fetched = 0;
    const fanway = open(PUBLIC, { getToken: () => (fetched++, token("ann", {}, 4)) });
    fanway.connect();
    await reached(fanway, "connected");
    await expect.poll(() => fetched, { timeout: 10_000 }).toBe(2);
    expect(fanway.state).toBe("connected");
  });

  it("that are refused stop the client", async () => {
    const fanway = open(PUBLIC, { getToken: () => "not.a.token" });
    fanway.connect();
    await reached(fanway, "stopped");
  });

  it("stop the client by UnauthorizedError", async () => {
    const fanway = open(PUBLIC, {
      getToken: () => {
        throw new UnauthorizedError("signed out");
      },
    });
    const reasons: unknown[] = [];
    fanway.on("state", ({ state, reason }) => state === "stopped" && reasons.push(reason));
    fanway.connect();
    await reached(fanway, "stopped");
    expect(reasons).toEqual(["signed out"]);
  });

  it("of channels are fetched together", async () => {
    const [one, two] = [fresh("doc"), fresh("doc")];
    const calls: string[][] = [];
    const fanway = open(PUBLIC, {
      user: "ann",
      async getChannelTokens(channels) {
        calls.push(channels);
        const minted = await Promise.all(channels.map(async (channel) => [channel, await token("ann", { channel })] as const));
        return Object.fromEntries(minted);
      },
    });
    const loops = [one, two].map((name) => fanway.channel(name, { token: true }).messages());
    await expect.poll(() => fanway.channel(two).position ?? calls.length).toBe(1);
    await expect.poll(async () => (await admin.presence(one).catch(() => ({ connections: 0 }))).connections).toBe(1);
    await expect.poll(async () => (await admin.presence(two)).connections).toBe(1);
    await Promise.all([admin.publish(one, 1), admin.publish(two, 2)]);
    expect(await Promise.all(loops.map((loop) => take(loop, 1)))).toEqual([[1], [2]]);
    expect(calls).toEqual([[one, two]]);
  });
});

describe("presence", () => {
  it("is complete, and follows joins and leaves", async () => {
    const name = fresh();
    const [ann, ben] = [open(PUBLIC, { user: "ann" }), open(PUBLIC, { user: "ben" })];
    const presence = new LivePresence(ann, name);
    const users = () => [...presence.users.keys()].sort();
    await expect.poll(users).toEqual(["ann"]);
    const here = ben.channel(name);
    const off = here.on("message", () => {});
    await expect.poll(users).toEqual(["ann", "ben"]);
    off();
    await expect.poll(users, { timeout: 10_000 }).toEqual(["ann"]);
    expect((await ann.channel(name).presence.get()).connections).toBe(1);
    presence.close();
  });
});

describe("history", () => {
  it("is read page by page, in both directions", async () => {
    const name = fresh();
    for (let n = 1; n <= 7; n++) await admin.publish(name, n);
    const channel = open(PUBLIC, { user: "ann" }).channel(name);
    await new Promise<void>((resolve) => channel.on("state", ({ state }) => state === "live" && resolve()));
    expect(await all(channel.history({ pageSize: 3 }))).toEqual([1, 2, 3, 4, 5, 6, 7]);
    expect(await all(channel.history({ pageSize: 3, reverse: true }))).toEqual([7, 6, 5, 4, 3, 2, 1]);
  });
});

describe("the end", () => {
  it("leaves no socket, and rejects what waits", async () => {
    const fanway = open(proxy.url, { user: "ann" });
    const channel = fanway.channel(fresh());
    const loop = take(channel, 1);
    await reached(fanway, "connected");
    proxy.stall();
    const published = channel.publish(1);
    await fanway.close();
    await expect(published).rejects.toMatchObject({ code: "uncertain" });
    await expect(loop).rejects.toMatchObject({ code: "stopped" });
    await expect(channel.publish(1)).rejects.toMatchObject({ code: "stopped" });
  });

  it("comes by the push API", async () => {
    const user = fresh("user").replaceAll(":", "-");
    const fanway = open(PUBLIC, { user });
    fanway.connect();
    await reached(fanway, "connected");
    expect(await admin.disconnect(user)).toBe(1);
    await reached(fanway, "stopped");
  });

  it("of a network that is silent is noticed on waking up", async () => {
    let dispatch: (event: PageEvent) => void = () => {};
    const environment: Environment = { ...browser, listen: (onEvent) => ((dispatch = onEvent), () => {}) };
    const fanway = open(proxy.url, { user: "ann", environment });
    fanway.connect();
    await reached(fanway, "connected");
    proxy.stall();
    dispatch("wake");
    await reached(fanway, "waiting");
    await reached(fanway, "connected");
  });
});

async function all(messages: AsyncIterable<Message>): Promise<unknown[]> {
  const found: unknown[] = [];
  for await (const { data } of messages) found.push(data);
  return found;
}
