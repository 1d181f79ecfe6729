/** Messages that are shown before the gateway has them: each once, whatever comes first. */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Fanway } from "../src/index.js";
import { OptimisticMessages } from "../src/optimistic.js";
import { FakeClock, FakeGateway, settle } from "../src/testing.js";
import { Scripted, subscribed } from "./scripted.js";

async function shown() {
  const clock = new FakeClock();
  const gateway = new Scripted();
  const fanway = new Fanway("wss://host", { environment: clock, transports: [gateway] });
  const list = new OptimisticMessages(fanway, fanway.channel("news"));
  /** What was on the screen after each change. */
  const screens: string[][] = [];
  const screen = () => list.messages.map(({ data, status, id }) => `${data} ${status}${id ? ` ${id}` : ""}`);
  list.onChange(() => screens.push(screen()));
  await gateway.accept({ news: subscribed(5) });
  const publish = (data: string, key?: string) => {
    list.publish(data, key ? { key } : {}).catch(() => {});
    return settle();
  };
  const echo = (id: string | undefined, data: string, connection = "c") => ({
    type: "message", channel: "news", ...(id && { message: id }), data, from: { connection, user: "anna" },
  });
  const published = (id?: string) => ({ type: "published", channel: "news", ...(id && { message: id }) });
  return { clock, gateway, fanway, list, screens, screen, publish, echo, published };
}

describe("a message that is published here", () => {
  it("is there at once, and once, if the reply comes first", async () => {
    const { gateway, screens, publish, echo, published } = await shown();
    await publish("a");
    await gateway.reply("publish", published("6-u"));
    await gateway.receive(echo("6-u", "a"));
    expect(screens).toEqual([["a pending"], ["a sent 6-u"], ["a sent 6-u"]]);
  });

  it("is there once if the echo comes first", async () => {
    const { gateway, list, screens, publish, echo, published } = await shown();
    await publish("a", "my-key");
    await gateway.receive(echo("6-u", "a"));
    expect(screens).toEqual([["a pending"], ["a pending"]]);
    await gateway.reply("publish", published("6-u"));
    expect(screens.at(-1)).toEqual(["a sent 6-u"]);
    expect(list.messages[0]).toMatchObject({ key: "my-key", from: { user: "anna" } });
  });

  it("takes the place of its echo among the others", async () => {
    const { gateway, screen, publish, echo, published } = await shown();
    await publish("a");
    await gateway.receive(echo("6-u", "x", "other"), echo("7-u", "a"), echo("8-u", "y", "other"));
    expect(screen()).toEqual(["x sent 6-u", "y sent 8-u", "a pending"]);
    await gateway.reply("publish", published("7-u"));
    expect(screen()).toEqual(["x sent 6-u", "a sent 7-u", "y sent 8-u"]);
  });

  it("is found by its id among several with the same data", async () => {
    const { gateway, screen, list, publish, echo, published } = await shown();
    await publish("a", "one");
    const [first] = gateway.sent.slice(-1);
    await publish("a", "two");
    await gateway.receive(echo("6-u", "a"), echo("7-u", "a"));
    await gateway.reply("publish", published("7-u"));
    await gateway.receive({ id: first!.id, ...published("6-u") });
    expect(screen()).toEqual(["a sent 6-u", "a sent 7-u"]);
    expect(list.messages.map(({ key }) => key)).toEqual(["one", "two"]);
  });

  it("is removed if it is rejected, and the error is the promise's", async () => {
    const { gateway, screens, list } = await shown();
    const published = list.publish("a");
    await settle();
    await gateway.reply("publish", { type: "error", code: "permission_denied", message: "no" });
    await expect(published).rejects.toMatchObject({ code: "permission_denied" });
    expect(screens).toEqual([["a pending"], []]);
  });

  it("that may have happened is marked, and can be removed", async () => {
    const { gateway, list, screen, publish, fanway } = await shown();
    await publish("a", "key");
    await fanway.close();
    await settle();
    expect(gateway.isUsed).toBe(false);
    expect(screen()).toEqual(["a uncertain"]);
    expect(list.messages[0]!.error).toMatchObject({ code: "uncertain" });
    list.remove("key");
    expect(screen()).toEqual([]);
  });

  it("that was uncertain, and comes back, is sent", async () => {
    const { clock, gateway, screen, publish, echo } = await shown();
    await publish("a");
    await gateway.receive(echo("6-u", "a"));
    await clock.advance(30_000); // no reply in time
    expect(screen()).toEqual(["a sent 6-u"]);
  });

  it("in a channel without history is found by its data", async () => {
    const { gateway, screens, publish, echo, published } = await shown();
    await publish("a");
    await publish("b");
    const [first, second] = gateway.sent.slice(-2);
    await gateway.receive(echo(undefined, "a"), { id: first!.id, ...published() });
    await gateway.receive({ id: second!.id, ...published() }, echo(undefined, "b"));
    expect(screens.at(-1)).toEqual(["a sent", "b sent"]);
    for (const screen of screens) expect(new Set(screen.map((line) => line[0])).size).toBe(screen.length);
  });
});

it("messages that the same client publishes elsewhere are shown", async () => {
  const { gateway, fanway, screen, publish, echo, published } = await shown();
  await publish("a");
  const [first] = gateway.sent.slice(-1);
  void fanway.channel("news").publish("b");
  await settle();
  await gateway.receive(echo("6-u", "b"), echo("7-u", "a"), { id: first!.id, ...published("7-u") });
  expect(screen()).toEqual(["b sent 6-u", "a sent 7-u"]);
});

it("keeps the newest messages", async () => {
  const gateway = new FakeGateway();
  const fanway = new Fanway("ws://fake", gateway.options);
  const list = new OptimisticMessages(fanway, fanway.channel("news"), 3);
  await settle();
  for (let n = 0; n < 9; n++) gateway.publish("news", n);
  expect(list.messages.map(({ data }) => data)).toEqual([6, 7, 8]);
  list.close();
  expect(fanway.stats().channels).toBe(1);
  await settle();
  expect(fanway.stats().channels).toBe(0);
});

it("shows everything that was published once, at any time, whatever is cut", async () => {
  const step = fc.constantFrom("here", "here", "elsewhere", "cut", "settle", "settle", "advance");
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const gateway = new FakeGateway();
      const fanway = new Fanway("ws://fake", gateway.options);
      const list = new OptimisticMessages(fanway, fanway.channel("news"));
      let published = 0;
      const mine: number[] = [];
      const check = () => {
        const screen = list.messages.map(({ data }) => data as number);
        expect(new Set(screen).size).toBe(screen.length);
        expect(screen).toEqual(expect.arrayContaining(mine));
      };
      const wrong: unknown[] = [];
      list.onChange(() => {
        try {
          check();
        } catch (error) {
          wrong.push(error);
        }
      });
      await settle();
      for (const action of steps) {
        if (action === "here") {
          mine.push(++published);
          void list.publish(published);
        } else if (action === "elsewhere") gateway.publish("news", ++published);
        else if (action === "cut") gateway.cut();
        else if (action === "settle") await settle();
        else await gateway.clock.advance(300);
        check();
      }
      await gateway.clock.advance(60_000);
      expect(wrong).toEqual([]);
      expect(list.messages.every(({ status }) => status === "sent")).toBe(true);
      expect(list.messages.map(({ data }) => data)).toEqual(gateway.history("news"));
      await fanway.close();
    }),
    { numRuns: 300 },
  );
});
