/** Transports, positions, later handles and optimistic messages beside a real gateway. */

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import WebSocket from "ws";
import { afterEach, beforeEach, expect, it } from "vitest";
import { type Fanway, type Transport, webSocket, type WebSocketConstructor } from "../../src/index.js";
import { OptimisticMessages } from "../../src/optimistic.js";
import { stored } from "../../src/storage.js";
import { admin, client, fresh, Proxy, reached, token } from "./gateway.js";

let proxy: Proxy;
let clients: Fanway[];

const open: typeof client = (...args) => {
  const fanway = client(...args);
  clients.push(fanway);
  return fanway;
};

beforeEach(async () => {
  proxy = await Proxy.start();
  clients = [];
});

afterEach(async () => {
  await Promise.all(clients.map((fanway) => fanway.close()));
  await proxy.stop();
});

it("a proxy that refuses upgrades: the next transport is taken, and kept", async () => {
  let refused = 0;
  const office = createServer((_request, response) => void response.writeHead(404).end()).on("upgrade", (_request, socket) => {
    refused++;
    socket.end("HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
  });
  await new Promise<void>((resolve) => office.listen(0, "127.0.0.1", resolve));
  try {
    const direct = webSocket(WebSocket as unknown as WebSocketConstructor);
    const blocked: Transport = {
      name: "blocked",
      connect: (_url, codec, events) => direct.connect(`ws://127.0.0.1:${(office.address() as AddressInfo).port}/v1/ws`, codec, events),
    };
    const fanway = open(proxy.url, { user: "ann", transports: [blocked, { ...direct, name: "direct" }] });
    const name = fresh();
    const messages = fanway.channel(name).messages();
    await reached(fanway, "connected");
    expect(fanway.stats().transport).toBe("direct");
    await admin.publish(name, 1);
    expect((await messages.next()).value.data).toBe(1);
    proxy.cut();
    await reached(fanway, "waiting");
    await admin.publish(name, 2);
    expect((await messages.next()).value.data).toBe(2);
    expect(refused).toBe(1);
    expect(fanway.stats()).toMatchObject({ transport: "direct", connections: 2 });
  } finally {
    await new Promise((resolve) => office.close(resolve));
  }
});

it("positions that are kept: a client that was reloaded goes on where the last one was", async () => {
  const name = fresh();
  const items = new Map<string, string>();
  const storage = { getItem: (key: string) => items.get(key) ?? null, setItem: (key: string, value: string) => void items.set(key, value) };
  const seen: unknown[] = [];
  await admin.publish(name, 0);
  for (let life = 0; life < 4; life++) {
    const fanway = open(proxy.url, { user: "ann", positions: stored(storage, { interval: 0 }) });
    fanway.channel(name).on("message", ({ data }) => seen.push(data));
    await reached(fanway, "connected");
    await admin.publish(name, 3 * life + 1);
    await expect.poll(() => seen.at(-1)).toBe(3 * life + 1);
    proxy.cut();
    await fanway.close();
    await admin.publish(name, 3 * life + 2);
    await admin.publish(name, 3 * life + 3);
  }
  // The first life began after message 0; what came after the last one is for the next.
  expect(seen).toEqual(Array.from({ length: 10 }, (_, index) => index + 1));
});

it("a handle that comes later gets its own rewind, while others go on", async () => {
  const name = fresh();
  const fanway = open(proxy.url, { user: "ann" });
  const lists: unknown[][] = [];
  const follow = (rewind?: number) => {
    const seen: unknown[] = [];
    lists.push(seen);
    fanway.channel(name, rewind === undefined ? {} : { rewind }).on("message", ({ data }) => seen.push(data));
  };
  follow();
  await reached(fanway, "connected");
  const count = 200;
  for (let n = 1; n <= count; n++) {
    await admin.publish(name, n);
    if (n % 20 === 0) follow(n % 7);
    if (n % 45 === 0) proxy.cut();
  }
  await expect.poll(() => lists.every((list) => list.at(-1) === count)).toBe(true);
  for (const list of lists) expect(list).toEqual(Array.from({ length: list.length }, (_, index) => count - list.length + 1 + index));
  expect(lists[0]!.length).toBe(count);
});

it("messages are shown once and at once, whatever is cut", async () => {
  const name = fresh();
  const fanway = open(proxy.url, { user: "ann" });
  const list = new OptimisticMessages<number>(fanway, fanway.channel(name), 1_000);
  const wrong: unknown[] = [];
  list.onChange(({ messages }) => {
    const numbers = messages.map(({ data }) => data);
    if (new Set(numbers).size !== numbers.length) wrong.push(numbers);
  });
  await reached(fanway, "connected");
  const published: Promise<unknown>[] = [];
  for (let n = 0; n < 60; n++) {
    published.push(list.publish(n));
    expect(list.messages.some(({ data }) => data === n)).toBe(true);
    if (n % 9 === 0) setImmediate(() => proxy.cut());
    if (n % 3 === 0) await published.at(-1);
  }
  await Promise.all(published);
  await expect.poll(() => list.messages.every(({ status, id }) => status === "sent" && id)).toBe(true);
  const { messages } = await admin.history(name, { limit: 1_000 });
  await expect.poll(() => list.messages.map(({ id }) => id)).toEqual(messages.map(({ message }) => message));
  expect(wrong).toEqual([]);
  const denied = new OptimisticMessages(fanway, fanway.channel(fresh("quiet")));
  await expect(denied.publish(1)).rejects.toMatchObject({ code: "permission_denied" });
  expect(denied.messages).toEqual([]);
});

it("after a user signed out, the client goes on as the next one", async () => {
  const name = fresh();
  let user = "ann";
  const fanway = open(proxy.url, { getToken: () => token(user) });
  const seen: unknown[] = [];
  fanway.channel(name).on("message", ({ data }) => seen.push(data));
  await reached(fanway, "connected");
  expect(fanway.info?.user).toBe("ann");
  await admin.publish(name, 1);
  await expect.poll(() => seen).toEqual([1]);
  await fanway.close();
  fanway.setToken(undefined);
  user = "ben";
  fanway.connect();
  await reached(fanway, "connected");
  expect(fanway.info?.user).toBe("ben");
  await admin.publish(name, 2);
  await expect.poll(() => seen).toEqual([1, 2]);
});
