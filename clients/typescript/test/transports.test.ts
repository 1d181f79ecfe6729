import { describe, expect, it } from "vitest";
import { Fanway, type FanwayOptions, json } from "../src/index.js";
import { FakeClock, settle } from "../src/testing.js";
import { Scripted } from "./scripted.js";

function client(options: FanwayOptions = {}, urls: string | string[] = "https://rt.example.com") {
  const clock = new FakeClock();
  const [first, second] = [new Scripted("first"), new Scripted("second")];
  const fanway = new Fanway(urls, { environment: clock, transports: [first, second], ...options });
  const states: string[] = [];
  fanway.on("state", ({ state }) => states.push(state));
  return { clock, first, second, fanway, states };
}

describe("transports", () => {
  it("the next one is tried at once where the first cannot be opened, and is kept", async () => {
    const { clock, first, second, fanway, states } = client();
    fanway.connect();
    await first.fail();
    expect(second.isUsed).toBe(true);
    await second.accept();
    expect(states).toEqual(["connecting", "connected"]);
    expect(fanway.stats()).toMatchObject({ transport: "second", connections: 1 });
    for (let cut = 0; cut < 3; cut++) {
      await second.fail();
      await clock.advance(250);
      await second.accept();
    }
    expect(first.opened.length).toBe(1);
  });

  it("the first one is kept if it worked, however often it fails later", async () => {
    const { clock, first, second, fanway } = client();
    fanway.connect();
    await first.accept();
    await first.fail();
    for (let attempt = 0; attempt < 2; attempt++) {
      await clock.advance(5_000);
      await first.fail();
    }
    expect(second.opened).toEqual([]);
  });

  it("all are tried again, the first one first, after two minutes without a connection: the network may be another", async () => {
    const { clock, first, second, fanway, states } = client();
    fanway.connect();
    await first.fail();
    await second.accept();
    await second.fail();
    for (let now = 0; !states.includes("suspended"); now += 500) {
      expect(now).toBeLessThan(300_000);
      await clock.advance(500);
      if (second.isUsed) await second.fail();
    }
    expect(first.opened.length).toBe(1);
    for (let now = 0; !first.isUsed; now += 500) {
      expect(now).toBeLessThan(60_000);
      await clock.advance(500);
    }
    expect(first.isUsed).toBe(true);
    expect(first.opened.length).toBe(2);
    await first.accept();
    expect(fanway.state).toBe("connected");
  });

  it("a proxy that answers nothing costs the time of one attempt", async () => {
    const { clock, first, second, fanway } = client();
    fanway.connect();
    first.link.open(); // the proxy accepts, and then nothing comes
    await clock.advance(10_000);
    expect(first.isUsed).toBe(false);
    expect(second.isUsed).toBe(true);
  });

  it("a refusal of the handshake does not stop the client while another is left", async () => {
    const { first, second, fanway, states } = client();
    fanway.connect();
    first.link.close(1006, "", { status: 426 });
    await settle();
    await second.accept();
    expect(states).toEqual(["connecting", "connected"]);
  });

  it("a delay follows only after the last one, and then the first is tried again, at the next URL", async () => {
    const { clock, first, second, fanway, states } = client({}, ["https://a", "https://b"]);
    fanway.connect();
    await first.fail();
    await second.fail();
    expect(states).toEqual(["connecting", "waiting"]);
    await clock.advance(250);
    await first.fail();
    expect([first.opened, second.opened]).toEqual([["https://a", "https://b"], ["https://a", "https://b"]]);
  });

  it("one that the platform does not have is left out", async () => {
    const clock = new FakeClock();
    const second = new Scripted("second");
    const missing = {
      name: "missing",
      connect: () => {
        throw new TypeError("no such thing here");
      },
    };
    const fanway = new Fanway("wss://host", { environment: clock, transports: [missing, second] });
    fanway.on("error", (error) => expect.unreachable(String(error)));
    fanway.connect();
    await second.accept();
    expect(fanway.state).toBe("connected");
  });

  it("the gateway's own close codes are no reason to try another", async () => {
    const { first, second, fanway, states } = client();
    fanway.connect();
    await first.fail(4010, "connection_limit");
    expect(states).toEqual(["connecting", "waiting"]);
    expect(second.opened).toEqual([]);
    await fanway.close();
  });

  it("neither is a token that cannot be fetched", async () => {
    const { first, second, fanway, states } = client({ getToken: () => Promise.reject(new Error("no token")) });
    fanway.on("error", () => {});
    fanway.connect();
    await settle();
    expect(states).toEqual(["connecting", "waiting"]);
    expect([first.opened, second.opened]).toEqual([[], []]);
  });

  it("one may have an encoding of its own", async () => {
    const shouting = { ...json, subprotocol: "own", decode: (data: string | ArrayBuffer) => json.decode((data as string).toLowerCase()) };
    const transport = new Scripted("own", shouting);
    const fanway = new Fanway("wss://host", { environment: new FakeClock(), transports: [transport] });
    fanway.connect();
    transport.link.open();
    await transport.receive({ type: "CONNECTED", id: 1, connection: "C", user: "", node: "n", heartbeat: 25, limits: {}, subs: {} });
    expect(fanway.info?.connection).toBe("c");
  });

  it("signs of life that are no messages keep a silent connection", async () => {
    const { clock, first, fanway } = client();
    fanway.connect();
    await first.accept();
    for (let time = 0; time < 120; time += 15) {
      await clock.advance(15_000);
      first.link.alive();
    }
    expect(fanway.state).toBe("connected");
    await clock.advance(35_000);
    expect(fanway.state).toBe("waiting");
  });
});

describe("a URL", () => {
  it.each(["ftp://x", "rt.example.com", "", "https://", "/v1/ws"])("%s is refused at once", (url) => {
    expect(() => new Fanway(url)).toThrow(TypeError);
    expect(() => new Fanway(["https://rt.example.com", url])).toThrow(/expected https:\/\/host/);
  });

  it.each(["http://host", "HTTPS://host", "ws://host:8000/v1/ws", "wss://host/other"])("%s is accepted", (url) => {
    expect(new Fanway(url).state).toBe("idle");
  });
});

it("stats count what was sent, received, and waits", async () => {
  const { first, fanway } = client();
  const channel = fanway.channel("news");
  channel.on("message", () => {});
  await first.accept({ news: { type: "subscribed", position: "1-u", recovered: false, messages: [] } });
  void channel.publish(1).catch(() => {});
  await settle();
  expect(fanway.stats()).toEqual({ transport: "first", connections: 1, sent: 2, received: 1, pending: 1, publishes: 1, channels: 1 });
  await first.reply("publish", { type: "published", channel: "news", message: "2-u" });
  expect(fanway.stats()).toMatchObject({ received: 2, pending: 0, publishes: 0 });
  await fanway.close();
});

it("`retry` sets the bound of each delay", async () => {
  const delays: unknown[] = [];
  const attempts: number[] = [];
  const clock = new FakeClock();
  const transport = new Scripted();
  const retry = (attempt: number) => {
    attempts.push(attempt);
    return 4_000 * (attempt + 1);
  };
  const fanway = new Fanway("wss://host", { environment: clock, transports: [transport], retry });
  fanway.on("state", ({ delay }) => delay !== undefined && delays.push(delay));
  fanway.connect();
  for (let n = 1; n <= 3; n++) {
    await transport.fail();
    await clock.advance(2_000 * n);
  }
  expect(attempts).toEqual([0, 1, 2]);
  expect(delays).toEqual([2_000, 4_000, 6_000]); // half of the bound: `random` is 0.5
});
