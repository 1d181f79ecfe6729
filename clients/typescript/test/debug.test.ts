import { expect, it } from "vitest";
import { debug } from "../src/debug.js";
import { Fanway } from "../src/index.js";
import { FakeClock, FakeGateway, settle } from "../src/testing.js";

it("tells of connections and messages, without tokens", async () => {
  const log: [string, any][] = [];
  const gateway = new FakeGateway({ clock: new FakeClock() });
  const options = {
    ...gateway.options,
    getToken: () => "secret-1",
    getChannelTokens: () => ({ news: "secret-2" }),
  };
  const fanway = new Fanway("ws://fake", debug(options, (event, details) => log.push([event, details])));
  fanway.channel("news", { token: true }).on("message", () => {});
  await settle();
  await fanway.channel("news").publish({ token: "of the application" });
  gateway.cut();
  await gateway.clock.advance(1_000);
  expect(log.map(([event]) => event).slice(0, 4)).toEqual(["open", "opened", "sent", "received"]);
  expect(log[0]).toEqual(["open", { transport: "fake", url: "ws://fake" }]);
  expect(log[2]![1]).toMatchObject({ type: "connect", token: "(redacted)", subs: {} });
  expect(log.some(([event, details]) => event === "closed" && details.code === 1006)).toBe(true);
  const restored = log.filter(([event, details]) => event === "sent" && details.type === "connect").pop()![1];
  expect(restored.subs.news).toMatchObject({ token: "(redacted)" });
  const text = JSON.stringify(log);
  expect(text).not.toContain("secret");
  expect(text).toContain("of the application");
  await fanway.close();
});
