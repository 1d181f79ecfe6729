/** The gateway that these tests talk to, and a proxy before it that breaks connections when a test says so. */

import { createServer, connect as dial, type Server, type Socket } from "node:net";
import type { AddressInfo } from "node:net";
import WebSocket from "ws";
import { FanwayAdmin, mintToken } from "../../src/admin.js";
import { Fanway, type FanwayOptions, type State, type WebSocketConstructor } from "../../src/index.js";

const need = (name: string): string => {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: tests/clients/test_typescript.py starts a gateway and runs these tests`);
  return value;
};

export const PUBLIC = need("TEST_GATEWAY_PUBLIC");
export const admin = new FanwayAdmin(need("TEST_GATEWAY_INTERNAL"), need("TEST_GATEWAY_KEY"));
export const token = (user: string, claims: Record<string, unknown> = {}, ttl?: number): Promise<string> =>
  mintToken(need("TEST_GATEWAY_SECRET"), { sub: user, ...claims }, { ttl });

let names = 0;

/** Return a name of a channel that no other test uses. */
export const fresh = (prefix = "test"): string => `${prefix}:${process.pid}-${Date.now()}-${++names}`;

/** A client over `ws`, as `user` where one is given. */
export function client(url = PUBLIC, { user, ...options }: FanwayOptions & { user?: string } = {}): Fanway {
  return new Fanway(url, {
    WebSocket: WebSocket as unknown as WebSocketConstructor,
    retry: () => 100,
    ...(user !== undefined && { getToken: () => token(user) }),
    ...options,
  });
}

/** Resolve when the client is in *state*. */
export const reached = (fanway: Fanway, state: State): Promise<void> =>
  new Promise((resolve) => {
    if (fanway.state === state) return resolve();
    const off = fanway.on("state", (change) => {
      if (change.state !== state) return;
      off();
      resolve();
    });
  });

/** TCP connections on their way to the gateway. */
export class Proxy {
  private readonly server: Server;
  private readonly pairs = new Set<[Socket, Socket]>();
  /** Connections that were accepted. */
  accepted = 0;
  /** Whether new connections are closed at once. */
  refusing = false;

  private constructor() {
    const target = new URL(PUBLIC);
    this.server = createServer((socket) => {
      this.accepted++;
      if (this.refusing) return socket.destroy();
      const upstream = dial(Number(target.port), target.hostname);
      const pair: [Socket, Socket] = [socket, upstream];
      this.pairs.add(pair);
      const end = () => {
        this.pairs.delete(pair);
        socket.destroy();
        upstream.destroy();
      };
      for (const side of pair) side.on("error", end).on("close", end).setNoDelay(true);
      socket.pipe(upstream);
      upstream.pipe(socket);
    });
  }

  static async start(): Promise<Proxy> {
    const proxy = new Proxy();
    await new Promise<void>((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    return proxy;
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.server.address() as AddressInfo).port}/v1/ws`;
  }

  /** Connections that are open. */
  get open(): number {
    return this.pairs.size;
  }

  /** Break every connection. */
  cut(): void {
    for (const [socket, upstream] of [...this.pairs]) {
      socket.resetAndDestroy();
      upstream.resetAndDestroy();
    }
  }

  /** Let nothing through any more, without closing: as a network that is gone. */
  stall(): void {
    for (const pair of this.pairs) for (const side of pair) side.unpipe().pause();
  }

  async stop(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.server.close(resolve));
  }
}
