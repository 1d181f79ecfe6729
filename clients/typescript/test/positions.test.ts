/** Positions that outlive a client: nothing is lost and nothing comes twice in its next life. */

import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { Fanway, type Positions } from "../src/index.js";
import { stored } from "../src/storage.js";
import { FakeClock, FakeGateway, settle } from "../src/testing.js";
import { message, Scripted, subscribed } from "./scripted.js";

class Memory {
  readonly items = new Map<string, string>();
  writes = 0;
  getItem = (key: string) => this.items.get(key) ?? null;
  setItem = (key: string, value: string) => {
    this.writes++;
    this.items.set(key, value);
  };
}

function client(positions: Positions) {
  const gateway = new Scripted();
  const fanway = new Fanway("wss://host", { environment: new FakeClock(), transports: [gateway], positions });
  const errors: unknown[] = [];
  fanway.on("error", (error) => errors.push(error));
  return { gateway, fanway, errors };
}

describe("positions", () => {
  it("are where the channels begin, and are saved after the handlers", async () => {
    const order: unknown[] = [];
    const { gateway, fanway } = client({ load: () => ({ news: "5-u", other: "1-u" }), save: (positions) => order.push(positions) });
    fanway.channel("news").on("message", ({ id }) => order.push(id));
    await settle();
    gateway.link.open();
    expect(gateway.last("connect").subs).toEqual({ news: { since: "5-u" } });
    await gateway.accept({ news: subscribed(7, [6, 7]) });
    await gateway.receive(message(8));
    // Once for all that one frame brings; the channel that was not used yet is kept.
    expect(order).toEqual(["6-u", "7-u", { news: "7-u", other: "1-u" }, "8-u", { news: "8-u", other: "1-u" }]);
  });

  it("may be loaded later; the client connects then", async () => {
    let loaded: (positions: Record<string, string>) => void = () => {};
    const { gateway, fanway } = client({ load: () => new Promise((resolve) => (loaded = resolve)), save: () => {} });
    fanway.channel("news").on("message", () => {});
    await settle();
    expect(fanway.state).toBe("idle");
    loaded({ news: "5-u" });
    await settle();
    gateway.link.open();
    expect(gateway.last("connect").subs).toEqual({ news: { since: "5-u" } });
  });

  it("that are loaded after `close` begin nothing", async () => {
    let loaded: (positions: null) => void = () => {};
    const { gateway, fanway } = client({ load: () => new Promise((resolve) => (loaded = resolve)), save: () => {} });
    fanway.connect();
    await fanway.close();
    loaded(null);
    await settle();
    expect([fanway.state, gateway.opened]).toEqual(["stopped", []]);
  });

  it("that cannot be loaded or saved are reported, and the client goes on", async () => {
    const { gateway, fanway, errors } = client({
      load: () => {
        throw new Error("no storage");
      },
      save: () => Promise.reject(new Error("full")),
    });
    fanway.channel("news").on("message", () => {});
    await settle();
    await gateway.accept({ news: subscribed(5) });
    await gateway.receive(message(6));
    expect(fanway.state).toBe("connected");
    expect(errors.map(String)).toEqual(["Error: no storage", "Error: full", "Error: full"]);
  });

  it("of a loop are those of the messages that it is done with", async () => {
    const saved: Record<string, string>[] = [];
    const { gateway, fanway } = client({ load: () => null, save: (positions) => saved.push(positions) });
    const messages = fanway.channel("news").messages();
    const quick: unknown[] = [];
    fanway.channel("news").on("message", ({ data }) => quick.push(data));
    await settle();
    await gateway.accept({ news: subscribed(5) });
    await gateway.receive(message(6), message(7));
    expect(quick).toEqual([6, 7]);
    expect(saved.at(-1)).toEqual({}); // it is not done with any
    await messages.next();
    await settle();
    expect(saved.at(-1)).toEqual({});
    await messages.next(); // it is done with 6
    await settle();
    expect(saved.at(-1)).toEqual({ news: "6-u" });
    void messages.next();
    await settle();
    expect(saved.at(-1)).toEqual({ news: "7-u" });
  });

  it("of a channel that was let go are forgotten", async () => {
    const saved: Record<string, string>[] = [];
    const { gateway, fanway } = client({ load: () => ({ news: "5-u" }), save: (positions) => saved.push(positions) });
    const channel = fanway.channel("news");
    channel.on("message", () => {});
    await settle();
    await gateway.accept({ news: subscribed(5) });
    channel.close();
    await settle();
    expect(saved.at(-1)).toEqual({});
  });
});

it("a client that is reloaded at any time loses nothing, and handles nothing twice", async () => {
  const step = fc.oneof(
    { weight: 6, arbitrary: fc.constant("publish" as const) },
    { weight: 2, arbitrary: fc.constant("reload" as const) },
    { weight: 1, arbitrary: fc.constant("cut" as const) },
    { weight: 2, arbitrary: fc.constant("advance" as const) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.boolean(), async (steps, loop) => {
      const gateway = new FakeGateway();
      const storage = new Memory();
      const seen: unknown[] = [];
      const open = () => {
        const fanway = new Fanway("ws://fake", { ...gateway.options, positions: stored(storage, { interval: 0 }) });
        const channel = fanway.channel("news");
        if (loop) void (async () => {
          for await (const { data } of channel) seen.push(data);
        })().catch(() => {});
        else channel.on("message", ({ data }) => seen.push(data));
        return fanway;
      };
      let fanway = open();
      await settle();
      let published = 0;
      gateway.publish("news", ++published); // a position is known from the first message on
      await settle();
      for (const action of steps) {
        if (action === "publish") gateway.publish("news", ++published);
        else if (action === "cut") gateway.cut();
        else if (action === "advance") await gateway.clock.advance(1_000);
        else {
          await fanway.close();
          await settle();
          fanway = open();
        }
        await settle();
      }
      await gateway.clock.advance(60_000);
      expect(seen).toEqual(Array.from({ length: published }, (_, index) => index + 1));
      await fanway.close();
    }),
    { numRuns: 200 },
  );
});

describe("a storage", () => {
  it("is written at once, then once per interval, and when the page is left", () => {
    vi.useFakeTimers();
    const page = new EventTarget();
    vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
    try {
      const memory = new Memory();
      const positions = stored(memory, { key: "mine" });
      for (let n = 1; n <= 5; n++) positions.save({ news: `${n}-u` });
      expect([memory.writes, positions.load()]).toEqual([1, { news: "1-u" }]);
      vi.advanceTimersByTime(250);
      expect([memory.writes, positions.load()]).toEqual([2, { news: "5-u" }]);
      positions.save({ news: "6-u" });
      positions.save({ news: "7-u" });
      page.dispatchEvent(new Event("pagehide"));
      expect(positions.load()).toEqual({ news: "7-u" });
      expect([...memory.items.keys()]).toEqual(["mine"]);
    } finally {
      vi.unstubAllGlobals();
      vi.useRealTimers();
    }
  });

  it.each(["", "no JSON", "[1]", "null", '{"news": 1}', '"text"'])("with %j in it has no positions", (text) => {
    const memory = new Memory();
    memory.items.set("fanway.positions", text);
    expect(Object.values((stored(memory).load() as Record<string, string>) ?? {}).filter((value) => typeof value !== "string")).toEqual([]);
  });
});
