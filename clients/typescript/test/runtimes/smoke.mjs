// Connects, resumes after a cut, publishes, closes; the process ends by itself if nothing of the client is left.
// Arguments: the public port of a gateway, its secret, and in Node whose WebSocket to use: "ws", "undici" or "global".
import { connect, createServer } from "node:net";
import process from "node:process";
import { Fanway } from "@fanway/client";
import { mintToken } from "@fanway/client/admin";

const [port, secret, from = "global"] = process.argv.slice(2);
const WebSocket = { ws: async () => (await import("ws")).default, undici: async () => (await import("undici")).WebSocket, global: async () => undefined };

/** A proxy before the gateway, so that a connection can be cut. */
const sockets = new Set();
const proxy = createServer((socket) => {
  const upstream = connect(Number(port), "127.0.0.1");
  for (const [one, other] of [[socket, upstream], [upstream, socket]]) {
    sockets.add(one);
    one.on("error", () => {}).on("close", () => {
      sockets.delete(one);
      other.destroy();
    });
    one.on("data", (data) => other.write(data));
  }
});
await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));

const fanway = new Fanway(`http://127.0.0.1:${proxy.address().port}`, {
  WebSocket: await WebSocket[from](),
  getToken: () => mintToken(secret, { sub: "ann" }),
  retry: () => 100,
});
const states = [];
fanway.on("state", ({ state }) => states.push(state));
const channel = fanway.channel(`runtime:${globalThis.crypto.randomUUID()}`);
const messages = channel.messages();
await channel.publish("one");
const received = [(await messages.next()).value.data];

const waiting = new Promise((resolve) => fanway.on("state", ({ state }) => state === "waiting" && resolve()));
for (const socket of [...sockets]) socket.destroy();
await waiting;
await channel.publish("two");
received.push((await messages.next()).value.data);

await fanway.close();
await new Promise((resolve) => proxy.close(resolve));
console.log(received.join(), states.join());
