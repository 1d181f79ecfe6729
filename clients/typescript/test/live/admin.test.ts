/** Every command of the push API, beside a gateway. */

import { afterEach, expect, it } from "vitest";
import { admin, client, fresh, reached } from "./gateway.js";

const clients: ReturnType<typeof client>[] = [];
afterEach(() => Promise.all(clients.splice(0).map((each) => each.close())));

it("every command", async () => {
  const [name, user] = [fresh(), fresh("admin").replace(":", "|")];
  const fanway = client(undefined, { user });
  clients.push(fanway);
  fanway.connect();
  await reached(fanway, "connected");
  expect(await admin.subscribe(user, name)).toBe(1);
  await admin.broadcast([name], 1);
  await admin.batch([{ channel: name, data: 2, tags: { a: "b" } }]);
  expect(await admin.publish(name, 3, { key: "k", acknowledge: "stored" })).toMatchObject({ replayed: false });
  expect(await admin.publish(name, 3, { key: "k", acknowledge: "stored" })).toMatchObject({ replayed: true });
  expect(await admin.notify([user], "hello")).toMatchObject([{ user }]);
  await expect.poll(async () => (await admin.channels({ prefix: name })).channels).toEqual([{ channel: name, subscribers: 1 }]);
  expect(await admin.channel(name)).toMatchObject({ subscribers: 1, history: 3 });
  await expect.poll(async () => (await admin.user(user)).connections[0]?.channels).toContain(name);
  await expect.poll(async () => (await admin.presence(name, { limit: 1 })).members).toMatchObject([{ user }]);
  expect((await admin.history(name, { reverse: true, limit: 2 })).messages).toMatchObject([{ data: 3 }, { data: 2, tags: { a: "b" } }]);
  await admin.clearHistory(name);
  expect((await admin.history(name)).messages).toEqual([]);
  expect((await admin.nodes()).length).toBe((await admin.stats()).nodes);
  expect(await admin.unsubscribe(user, name)).toBe(1);
  expect(await admin.disconnect(user)).toBe(1);
  await reached(fanway, "stopped");
});
