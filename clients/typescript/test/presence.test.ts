/** `LivePresence` on a clock that the test moves: when the list is loaded again. */

import { expect, it } from "vitest";
import { Fanway } from "../src/index.js";
import { LivePresence } from "../src/presence.js";
import { FakeGateway, settle } from "../src/testing.js";

const member = (connection: string) => ({ connection, user: connection });

/** A gateway whose `presence` replies are what the test says. */
class ScriptedGateway extends FakeGateway {
  readonly replies: Record<string, unknown>[] = [];
  asked = 0;

  override answer(link: never, command: any): Record<string, unknown> | undefined {
    if (command.type !== "presence") return super.answer(link, command);
    this.asked++;
    return { ...(this.replies.shift() ?? { type: "presence", connections: 0, users: 0, members: [] }), id: command.id };
  }
}

const followed = async () => {
  const gateway = new ScriptedGateway();
  const fanway = new Fanway("ws://fake", gateway.options);
  const presence = new LivePresence(fanway, "room");
  await settle();
  return { gateway, fanway, presence, here: () => [...presence.members.keys()] };
};

it.each(["unavailable", "rate_limited", "internal"])("loads the list again after a gap, until the gateway can answer: %s", async (code) => {
  const { gateway, fanway, here } = await followed();
  gateway.replies.push(
    { type: "error", code, message: "not now", retry_after_ms: 2_000 },
    { type: "presence", connections: 1, users: 1, members: [member("ann")] },
  );
  gateway.push({ type: "gap", channel: "room", reason: "trimmed" });
  await settle();
  expect([gateway.asked, here()]).toEqual([1, []]);
  await gateway.clock.advance(1_999);
  expect(gateway.asked).toBe(1);
  await gateway.clock.advance(1);
  expect([gateway.asked, here()]).toEqual([2, ["ann"]]);
  await fanway.close();
  expect(gateway.clock.pending).toBe(0);
});

it("does not ask again after another error, or after its end", async () => {
  const { gateway, fanway, presence } = await followed();
  gateway.replies.push({ type: "error", code: "not_subscribed", message: "" });
  gateway.push({ type: "gap", channel: "room", reason: "trimmed" });
  await gateway.clock.advance(60_000);
  expect(gateway.asked).toBe(1);
  gateway.replies.push({ type: "error", code: "unavailable", message: "" });
  gateway.push({ type: "gap", channel: "room", reason: "trimmed" });
  await settle();
  presence.close();
  await gateway.clock.advance(60_000);
  expect(gateway.asked).toBe(2);
  await fanway.close();
});
