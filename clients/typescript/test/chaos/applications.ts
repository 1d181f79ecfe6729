/**
 * Applications on the library, for the chaos tests: tests/chaos/library/node_applications.py runs them in one process.
 * Requests are lines of JSON on standard input, what applications see are lines of JSON on standard output.
 */

import { createInterface } from "node:readline";
import WebSocket from "ws";
import { mintToken } from "../../src/admin.js";
import { browser, type PageEvent } from "../../src/environment.js";
import { Fanway, FanwayError, type WebSocketConstructor } from "../../src/index.js";
import { LivePresence } from "../../src/presence.js";

interface Options {
  name: string;
  urls: string[];
  channels: string[];
  stateUrls: string[];
}

interface Setup {
  applications: Options[];
  secret: string;
  pushKey: string;
  lounge: string;
  firstTokenSeconds: number;
  tokenSeconds: number;
  retryMs: number;
  wakeMs: number;
}

type Request =
  | { do: "publish"; client: string; channel: string; publish: string; data: unknown; timeout: number }
  | { do: "present" | "tokens"; client: string }
  | { do: "close" };

const setup = JSON.parse(process.argv[2]!) as Setup;
const print = (line: Record<string, unknown>) => process.stdout.write(`${JSON.stringify(line)}\n`);

class Application {
  readonly fanway: Fanway;
  /** How often it was asked for a token. */
  tokens = 0;
  private readonly presence: LivePresence;
  private wake: (event: PageEvent) => void = () => {};
  private readonly waking: ReturnType<typeof setInterval>;

  constructor(private readonly options: Options) {
    this.fanway = new Fanway(options.urls, {
      WebSocket: WebSocket as unknown as WebSocketConstructor,
      getToken: () => mintToken(setup.secret, { sub: options.name }, { ttl: this.tokens++ ? setup.tokenSeconds : setup.firstTokenSeconds }),
      retry: () => setup.retryMs,
      environment: {
        ...browser,
        listen: (onEvent) => {
          this.wake = onEvent;
          return () => (this.wake = () => {});
        },
      },
    });
    this.fanway.on("error", (error) => console.error(options.name, error));
    for (const channel of options.channels) this.listen(channel);
    this.presence = new LivePresence(this.fanway, setup.lounge);
    this.waking = setInterval(() => this.wake("wake"), setup.wakeMs * (0.5 + Math.random()));
  }

  connections(): string[] {
    return [...this.presence.members.keys()];
  }

  async close(): Promise<void> {
    clearInterval(this.waking);
    this.presence.close();
    await this.fanway.close();
  }

  private listen(name: string): void {
    const client = this.options.name;
    const loads = this.options.stateUrls.length > 0;
    const channel = this.fanway.channel(name, loads ? { loadState: ({ signal }) => this.load(name, signal) } : {});
    channel.on("state", ({ state }) => {
      if (state === "live")
        queueMicrotask(() => {
          // The position follows in the same turn.
          if (channel.state === "live") print({ event: "position", client, channel: name, position: channel.position });
        });
    });
    channel.on("gap", ({ reason }) => print({ event: "gap", client, channel: name, reason, position: channel.position }));
    channel.on("message", ({ id, data }) => print({ event: "message", client, channel: name, id, data, before: channel.position }));
  }

  /** Return the position up to which the state was read; a failure is tried again by the library. */
  private async load(channel: string, signal: AbortSignal): Promise<{ position: string }> {
    const { stateUrls, name } = this.options;
    const url = stateUrls[Math.floor(Math.random() * stateUrls.length)];
    const answer = await fetch(`${url}/v1/channels/${channel}/history?limit=0`, {
      headers: { authorization: `Bearer ${setup.pushKey}` },
      signal: AbortSignal.any([signal, AbortSignal.timeout(2_000)]),
    });
    if (!answer.ok) throw new Error(`the state could not be loaded: ${answer.status}`);
    const { position } = (await answer.json()) as { position: string };
    print({ event: "loaded", client: name, channel, position });
    return { position };
  }
}

const applications = new Map(setup.applications.map((options) => [options.name, new Application(options)]));

async function publish({ client, channel, publish, data, timeout }: Request & { do: "publish" }): Promise<void> {
  try {
    const { id } = await applications.get(client)!.fanway.channel(channel).publish(data, { timeout });
    print({ event: "published", publish, id });
  } catch (error) {
    print({ event: "published", publish, error: error instanceof FanwayError ? error.code : String(error) });
  }
}

const requests = createInterface({ input: process.stdin });
requests.on("line", (line) => {
  const request = JSON.parse(line) as Request;
  if (request.do === "publish") void publish(request);
  else if (request.do === "present") print({ event: "present", client: request.client, connections: applications.get(request.client)!.connections() });
  else if (request.do === "tokens") print({ event: "tokens", client: request.client, count: applications.get(request.client)!.tokens });
  else void close();
});

/** Close everything; the process must then end by itself: nothing of the library may keep it. */
async function close(): Promise<void> {
  await Promise.all([...applications.values()].map((application) => application.close()));
  requests.close();
  process.stdin.destroy();
  setTimeout(() => console.error("still running:", process.getActiveResourcesInfo()), 10_000).unref();
  process.once("beforeExit", () => print({ event: "ended", resources: process.getActiveResourcesInfo() }));
}
