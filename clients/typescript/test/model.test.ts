/** Random lives of a client beside a gateway in the same process: nothing is lost silently, nothing comes twice. */

import fc from "fast-check";
import { expect, it } from "vitest";
import { Fanway, type PageEvent } from "../src/index.js";
import { FakeGateway, settle } from "../src/testing.js";

type Step =
  | { do: "publish" }
  | { do: "publish by the client" }
  | { do: "cut" }
  | { do: "close"; code: number }
  | { do: "lose the history" }
  | { do: "advance" | "sleep"; ms: number }
  | { do: "page"; event: PageEvent }
  | { do: "network"; online: boolean };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.constant<Step>({ do: "publish" }) },
  { weight: 3, arbitrary: fc.constant<Step>({ do: "publish by the client" }) },
  { weight: 2, arbitrary: fc.constant<Step>({ do: "cut" }) },
  fc.record({ do: fc.constant("close" as const), code: fc.constantFrom(1001, 4000, 4006, 4007, 4008, 4011, 4013) }),
  fc.constant<Step>({ do: "lose the history" }),
  { weight: 4, arbitrary: fc.record({ do: fc.constant("advance" as const), ms: fc.integer({ min: 0, max: 40_000 }) }) },
  fc.record({ do: fc.constant("sleep" as const), ms: fc.integer({ min: 0, max: 900_000 }) }),
  fc.record({ do: fc.constant("page" as const), event: fc.constantFrom<PageEvent>("wake", "hide", "online", "offline") }),
  fc.record({ do: fc.constant("network" as const), online: fc.boolean() }),
);

it("delivers every message once and in order, or tells of a gap", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.double({ min: 0, max: 0.999, noNaN: true }), async (steps, chance) => {
      const gateway = new FakeGateway({ history: 5 });
      const { clock } = gateway;
      clock.chance = chance;
      const fanway = new Fanway("ws://fake", gateway.options);
      const channel = fanway.channel("news");
      const received: (number | "gap")[] = [];
      const settled: string[] = [];
      channel.on("gap", () => received.push("gap"));
      channel.on("message", ({ data }) => received.push(data as number));
      await clock.advance(0);
      let published = 0;
      let byClient = 0;
      for (const action of steps) {
        switch (action.do) {
          case "publish":
            gateway.publish("news", ++published);
            break;
          case "publish by the client":
            byClient++;
            channel.publish(++published).then(
              () => settled.push("published"),
              () => settled.push("failed"),
            );
            break;
          case "cut":
            gateway.cut();
            break;
          case "close":
            gateway.close(action.code);
            break;
          case "lose the history":
            gateway.close(4011);
            gateway.forgetHistory("news");
            break;
          case "advance":
          case "sleep":
            await clock[action.do](action.ms);
            break;
          case "page":
            await clock.page(action.event);
            break;
          case "network":
            clock.network = action.online;
            break;
        }
        await settle();
      }
      clock.network = true;
      await clock.page("wake");
      await clock.advance(60_000);
      expect(fanway.state).toBe("connected");
      expect(channel.state).toBe("live");
      gateway.publish("news", ++published);
      await settle();

      // Publishes of the client that waited arrive later than their number; each of them once.
      const numbers = received.filter((item): item is number => item !== "gap");
      expect(new Set(numbers).size).toBe(numbers.length);
      expect(numbers[numbers.length - 1]).toBe(published);
      if (!received.includes("gap") && byClient === settled.filter((result) => result === "published").length)
        expect([...numbers].sort((a, b) => a - b)).toEqual(Array.from({ length: published }, (_, index) => index + 1));
      if (!byClient) expect([...numbers]).toEqual([...numbers].sort((a, b) => a - b));
      expect(settled.length).toBe(byClient);
      await fanway.close();
      expect(clock.pending).toBe(0);
    }),
    { numRuns: 300 },
  );
});

it("never leaves the table of states", async () => {
  const legal: Record<string, string[]> = {
    idle: ["connecting", "stopped"],
    connecting: ["connected", "waiting", "suspended", "stopped"],
    connected: ["waiting", "stopped"],
    waiting: ["connecting", "stopped"],
    suspended: ["connecting", "stopped"],
    stopped: ["connecting"],
  };
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof(step, fc.constantFrom({ do: "connect" as const }, { do: "stop" as const })), { maxLength: 40 }),
      async (steps) => {
        const gateway = new FakeGateway();
        const fanway = new Fanway("ws://fake", gateway.options);
        let state = fanway.state as string;
        fanway.on("state", (change) => {
          expect(change.previous).toBe(state);
          expect(legal[state]).toContain(change.state);
          state = change.state;
        });
        for (const action of steps) {
          if (action.do === "connect") fanway.connect();
          else if (action.do === "stop") await fanway.close();
          else if (action.do === "cut") gateway.cut();
          else if (action.do === "close") gateway.close(action.code);
          else if (action.do === "page") await gateway.clock.page(action.event);
          else if (action.do === "advance" || action.do === "sleep") await gateway.clock[action.do](action.ms);
          else if (action.do === "network") gateway.clock.network = action.online;
          await settle();
        }
        await fanway.close();
        expect(gateway.clock.pending).toBe(0);
      },
    ),
    { numRuns: 300 },
  );
});
