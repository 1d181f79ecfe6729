/** Handles that join a channel which others follow already. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ChannelOptions, Fanway } from "../src/index.js";
import { FakeClock, FakeGateway, settle } from "../src/testing.js";
import { message, Scripted, subscribed } from "./scripted.js";

/** A client with one handle on `news` at position 5, and one that comes later. */
async function joined(options: ChannelOptions) {
  const clock = new FakeClock();
  const gateway = new Scripted();
  const fanway = new Fanway("wss://host", { environment: clock, transports: [gateway] });
  const errors: unknown[] = [];
  fanway.on("error", (error) => errors.push(error));
  const follow = (channelOptions: ChannelOptions) => {
    const seen: unknown[] = [];
    fanway.channel("news", channelOptions).on("message", ({ data }) => seen.push(data));
    return seen;
  };
  const first = follow({});
  await gateway.accept({ news: subscribed(5) });
  const second = follow(options);
  await settle();
  return { clock, gateway, fanway, errors, first, second };
}

const page = (...numbers: number[]) => ({ type: "history", channel: "news", messages: numbers.map((n) => message(n)) });

describe("a later handle with a rewind", () => {
  it("gets the last messages, then what follows, and others notice nothing", async () => {
    const { gateway, first, second } = await joined({ rewind: 2 });
    expect(gateway.last("history")).toMatchObject({ channel: "news", limit: 2, reverse: true });
    await gateway.reply("history", page(5, 4));
    await gateway.receive(message(6));
    expect([first, second]).toEqual([[6], [4, 5, 6]]);
  });

  it("that arrives while the history is asked for", async () => {
    const { gateway, first, second } = await joined({ rewind: 2 });
    await gateway.receive(message(6), message(7));
    expect(second).toEqual([]);
    await gateway.reply("history", page(6, 5));
    expect([first, second]).toEqual([[6, 7], [5, 6, 7]]);
  });

  it("where the history is ahead of what was pushed", async () => {
    const { gateway, first, second } = await joined({ rewind: 3 });
    await gateway.receive(message(6));
    await gateway.reply("history", page(7, 6, 5));
    await gateway.receive(message(7), message(8));
    expect([first, second]).toEqual([[6, 7, 8], [5, 6, 7, 8]]);
  });

  it("where more messages than it asks for arrive meanwhile: none is left out", async () => {
    const { gateway, first, second } = await joined({ rewind: 1 });
    await gateway.receive(message(6), message(7));
    await gateway.reply("history", page(8));
    await gateway.receive(message(8));
    expect([first, second]).toEqual([[6, 7, 8], [6, 7, 8]]);
  });

  it("on a channel that is so busy that a thousand messages come before the history", async () => {
    const { gateway, first, second } = await joined({ rewind: 1 });
    for (let n = 6; n <= 1_010; n++) gateway.link.message(JSON.stringify(message(n)));
    await gateway.reply("history", page(1_010));
    expect(second).toEqual(first);
    expect(second.length).toBe(1_005);
  });

  it("begins again if the connection ends meanwhile", async () => {
    const { clock, gateway, first, second } = await joined({ rewind: 2 });
    await gateway.receive(message(6));
    await gateway.fail();
    await clock.advance(250);
    await gateway.accept({ news: subscribed(8, [7, 8]) });
    await gateway.reply("history", page(8, 7));
    expect([first, second]).toEqual([[6, 7, 8], [6, 7, 8]]);
  });

  it("whose history is refused is told, and gets what follows", async () => {
    const { gateway, errors, second } = await joined({ rewind: 2 });
    await gateway.receive(message(6));
    await gateway.reply("history", { type: "error", code: "permission_denied", message: "no" });
    expect(errors).toMatchObject([{ code: "permission_denied" }]);
    await gateway.receive(message(7));
    expect(second).toEqual([6, 7]);
  });

  it("that asks for no more than the first one, before the channel is live, shares its messages", async () => {
    const clock = new FakeClock();
    const gateway = new Scripted();
    const fanway = new Fanway("wss://host", { environment: clock, transports: [gateway] });
    const seen: unknown[][] = [5, 3, 9].map((rewind) => {
      const list: unknown[] = [];
      fanway.channel("news", { rewind }).on("message", ({ data }) => list.push(data));
      return list;
    });
    gateway.link.open();
    await gateway.accept({ news: subscribed(5, [3, 4, 5]) });
    expect(gateway.last("connect").subs).toEqual({ news: { rewind: 5 } });
    expect(gateway.last("history").limit).toBe(9);
    await gateway.reply("history", page(5, 4, 3, 2));
    expect(seen).toEqual([[3, 4, 5], [3, 4, 5], [2, 3, 4, 5]]);
  });
});

describe("a later handle with a loadState", () => {
  it("that was read when messages had not arrived yet", async () => {
    const { gateway, first, second } = await joined({ loadState: () => ({ position: "7-u" }) });
    expect(gateway.last("history")).toMatchObject({ since: "7-u" });
    await gateway.reply("history", page());
    await gateway.receive(message(6));
    await gateway.reply("history", page());
    await gateway.receive(message(7), message(8));
    expect([first, second]).toEqual([[6, 7, 8], [8]]);
  });

  it("that was read at a message which is never pushed", async () => {
    const { gateway, second } = await joined({ loadState: () => ({ position: "7-u" }) });
    await gateway.reply("history", page());
    await gateway.receive(message(9)); // the channel's policy left 7 and 8 out
    await gateway.reply("history", page(8, 9));
    await gateway.receive(message(10));
    expect(second).toEqual([8, 9, 10]);
  });

  it("is loaded at once, for itself alone", async () => {
    let done: (state: { position?: string }) => void = () => {};
    const requests: unknown[] = [];
    const { gateway, first, second } = await joined({
      loadState: (request) => {
        requests.push(request);
        return new Promise<{ position?: string }>((resolve) => (done = resolve));
      },
    });
    expect(requests).toMatchObject([{ channel: "news", reason: "first", position: "5-u" }]);
    await gateway.receive(message(6), message(7));
    expect([first, second]).toEqual([[6, 7], []]);
    done({ position: "6-u" });
    await settle();
    expect(second).toEqual([7]);
  });

  it("that was read before the handle came gets what it lacks from the history", async () => {
    const { gateway, first, second } = await joined({ loadState: () => ({ position: "3-u" }) });
    expect(gateway.last("history")).toMatchObject({ since: "3-u" });
    await gateway.receive(message(6));
    await gateway.reply("history", page(4, 5, 6));
    await gateway.receive(message(7));
    expect([first, second]).toEqual([[6, 7], [4, 5, 6, 7]]);
    expect(gateway.sent.some(({ type }) => type === "unsubscribe")).toBe(false);
  });

  it("is loaded again where the history does not reach back", async () => {
    let loads = 0;
    const { clock, gateway, second } = await joined({ loadState: () => ({ position: loads++ ? "6-u" : "1-u" }) });
    await gateway.receive(message(6), message(7));
    await gateway.reply("history", { type: "error", code: "bad_request", message: "no longer kept" });
    await clock.advance(250);
    expect(loads).toBe(2);
    // 6 and 7 came before the second load, whose state has 6.
    await gateway.reply("history", page(7));
    expect(second).toEqual([7]);
  });

  it("is loaded again after a gap, as that of the first handle is", async () => {
    const reasons: string[] = [];
    const { gateway, first, second } = await joined({ loadState: ({ reason, position }) => (reasons.push(reason), { position }) });
    await gateway.receive({ type: "gap", channel: "news", reason: "trimmed", position: "9-u" }, message(10));
    expect(reasons).toEqual(["first", "gap"]);
    expect([first, second]).toEqual([[10], [10]]);
  });
});

it("every handle has every message once and in order from where it began, whenever it came", async () => {
  // A handle began where it was made, if the channel was live; what it rewound to is before that.
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.constant({ do: "publish" as const }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("join" as const), rewind: fc.nat(4) }) },
    { weight: 2, arbitrary: fc.constant({ do: "load" as const }) },
    { weight: 3, arbitrary: fc.constant({ do: "settle" as const }) },
    { weight: 1, arbitrary: fc.constant({ do: "cut" as const }) },
  );
  await fc.assert(
    fc.asyncProperty(fc.nat(5), fc.nat(5), fc.array(step, { maxLength: 40 }), async (before, rewind, steps) => {
      const gateway = new FakeGateway();
      const fanway = new Fanway("ws://fake", gateway.options);
      const lists: { least: number; seen: number[] }[] = [];
      let published = 0;
      const join = (options: ChannelOptions, least: number) => {
        const seen: number[] = [];
        lists.push({ least, seen });
        fanway.channel("news", options).on("message", ({ data }) => seen.push(data as number));
      };
      while (published < before) gateway.publish("news", ++published);
      join(rewind ? { rewind } : {}, published + 1);
      await settle();
      expect(lists[0]!.seen.length).toBe(Math.min(before, rewind));
      for (const action of steps) {
        if (action.do === "publish") gateway.publish("news", ++published);
        else if (action.do === "join") join({ rewind: action.rewind }, fanway.state === "connected" ? published + 1 : Infinity);
        else if (action.do === "load") {
          const seen: number[] = [];
          lists.push({ least: Infinity, seen });
          const loadState = () => {
            seen.splice(0, Infinity, ...Array.from({ length: published }, (_, index) => index + 1));
            return { position: gateway.position("news") };
          };
          fanway.channel("news", { loadState }).on("message", ({ data }) => seen.push(data as number));
        } else if (action.do === "cut") gateway.cut();
        else await settle();
      }
      await gateway.clock.advance(60_000);
      gateway.publish("news", ++published);
      await gateway.clock.advance(60_000);
      for (const { least, seen } of lists) {
        expect(seen).toEqual(Array.from({ length: seen.length }, (_, index) => published - seen.length + 1 + index));
        expect(seen[0]).toBeLessThanOrEqual(Math.min(least, published));
      }
      await fanway.close();
      expect(gateway.clock.pending).toBe(0);
    }),
    { numRuns: 200 },
  );
});
