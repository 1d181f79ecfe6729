/** Calls of `loadState` whose answer would have no effect. */

import { expect, it } from "vitest";
import { Fanway } from "../src/index.js";
import { FakeClock, settle } from "../src/testing.js";
import { message, Scripted, subscribed } from "./scripted.js";

/** A client whose `loadState` answers when the test calls one of `answers`; each call leaves its signal in `signals`. */
async function loading() {
  const clock = new FakeClock();
  const gateway = new Scripted();
  const fanway = new Fanway("wss://host", { environment: clock, transports: [gateway] });
  const signals: AbortSignal[] = [];
  const answers: ((state: { position?: string }) => void)[] = [];
  const channel = fanway.channel("news", {
    loadState: ({ signal }) => {
      signals.push(signal);
      return new Promise<{ position?: string }>((resolve) => answers.push(resolve));
    },
  });
  const seen: unknown[] = [];
  channel.on("message", ({ data }) => seen.push(data));
  await gateway.accept({ news: subscribed(5) });
  const aborted = () => signals.map((signal) => signal.aborted);
  return { clock, gateway, fanway, channel, aborted, answers, seen };
}

it("a signal is not aborted while the state is loaded", async () => {
  const { gateway, aborted, answers, seen } = await loading();
  await gateway.receive(message(6));
  expect(aborted()).toEqual([false]);
  answers[0]!({ position: "5-u" });
  await settle();
  expect(seen).toEqual([6]);
});

it("a gap aborts the load before the next one begins", async () => {
  const { gateway, aborted } = await loading();
  await gateway.receive({ type: "gap", channel: "news", reason: "trimmed", position: "9-u" });
  expect(aborted()).toEqual([true, false]);
});

it("the end of the connection aborts the load", async () => {
  const { clock, gateway, aborted } = await loading();
  await gateway.fail();
  expect(aborted()).toEqual([true]);
  await clock.advance(250);
  await gateway.accept({ news: { ...subscribed(5), recovered: true } });
  expect(aborted()).toEqual([true, false]);
});

it("a channel that is let go of, and a client that is closed, abort the load", async () => {
  const first = await loading();
  first.channel.close();
  await settle();
  expect(first.aborted()).toEqual([true]);
  const second = await loading();
  await second.fanway.close();
  expect(second.aborted()).toEqual([true]);
});
