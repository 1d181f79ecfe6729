/**
 * For the tests of applications: a clock that the test moves, and a gateway in the same process.
 *
 *     const gateway = new FakeGateway();
 *     const fanway = new Fanway("ws://fake", gateway.options);
 *     gateway.publish("news", { title: "…" });
 *     gateway.cut();                    // the connection breaks; the client resumes
 *     await gateway.clock.advance(1_000);
 */

import type { Environment, PageEvent } from "./environment.js";
import type { FanwayOptions } from "./client.js";
import type { LinkEvents, Transport } from "./transport.js";
import type { MessagePush } from "./wire.js";

interface Timer {
  due: number;
  callback: () => void;
}

/** Let every promise that is settled run its callbacks. */
export const settle = async (): Promise<void> => {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
};

/** An environment whose time passes only when the test says so. */
export class FakeClock implements Environment {
  time = 0;
  /** What `random` returns. */
  chance = 0.5;
  network = true;
  private keys = 0;
  private readonly timers = new Set<Timer>();
  private readonly listeners = new Set<(event: PageEvent) => void>();

  now = (): number => this.time;
  random = (): number => this.chance;
  key = (): string => `key-${++this.keys}`;
  online = (): boolean => this.network;

  setTimer = (callback: () => void, ms: number): Timer => {
    const timer = { due: this.time + Math.max(0, ms), callback };
    this.timers.add(timer);
    return timer;
  };

  clearTimer = (timer: unknown): void => {
    this.timers.delete(timer as Timer);
  };

  listen = (onEvent: (event: PageEvent) => void): (() => void) => {
    this.listeners.add(onEvent);
    return () => this.listeners.delete(onEvent);
  };

  /** Timers that have not fired, and listeners to page events: 0 after `close`. */
  get pending(): number {
    return this.timers.size + this.listeners.size;
  }

  /** Dispatch an event of the page. */
  async page(event: PageEvent): Promise<void> {
    for (const listener of [...this.listeners]) listener(event);
    await settle();
  }

  /** Let *ms* pass; timers fire in order, each at its time. */
  async advance(ms: number): Promise<void> {
    const end = this.time + ms;
    await settle();
    for (let next = this.next(end); next; next = this.next(end)) {
      this.time = Math.max(this.time, next.due);
      this.timers.delete(next);
      next.callback();
      await settle();
    }
    this.time = end;
  }

  /** Let *ms* pass as on a machine that sleeps: no timer fires before the end, and then all that are due do, late. */
  async sleep(ms: number): Promise<void> {
    this.time += ms;
    await this.advance(0);
  }

  private next(end: number): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this.timers) if (timer.due <= end && (!first || timer.due < first.due)) first = timer;
    return first;
  }
}

interface FakeChannel {
  /** Tells this history from an earlier one of the same channel. */
  uid: string;
  log: MessagePush[];
  links: Set<FakeLink>;
}

/** One gateway with history in every channel. It accepts every token and every command. */
export class FakeGateway {
  readonly clock: FakeClock;
  /** Commands that arrived, oldest first. */
  readonly received: Record<string, any>[] = [];
  private readonly channels = new Map<string, FakeChannel>();
  private readonly links = new Set<FakeLink>();
  private readonly keys = new Map<string, string>();
  private connections = 0;
  private histories = 0;

  /** *history* is the number of messages that each channel keeps. */
  constructor({ clock = new FakeClock(), history = 100 }: { clock?: FakeClock; history?: number } = {}) {
    this.clock = clock;
    this.history = history;
  }

  private readonly history: number;

  /** What to pass to `new Fanway`. */
  get options(): Pick<FanwayOptions, "environment" | "transport"> {
    return { environment: this.clock, transport: this.transport };
  }

  readonly transport: Transport = {
    name: "fake",
    connect: (_url, _codec, events) => {
      const link = new FakeLink(this, events, `connection-${++this.connections}`);
      this.links.add(link);
      queueMicrotask(() => this.links.has(link) && events.open());
      return link;
    },
  };

  /** Publish *data* as a backend; return the message id. */
  publish(channel: string, data: unknown, from?: MessagePush["from"]): string {
    const { log, links, uid } = this.channel(channel);
    const offset = Number(log[log.length - 1]?.message?.split("-")[0] ?? 0) + 1;
    const push: MessagePush = { type: "message", channel, message: `${offset}-${uid}`, data, time: this.clock.now() };
    if (from) push.from = from;
    log.push(push);
    if (log.length > this.history) log.shift();
    for (const link of links) link.push(push);
    return push.message!;
  }

  /** Break every connection, without a close code. */
  cut(): void {
    this.close(1006);
  }

  /** Close every connection with *code*. */
  close(code: number, reason = ""): void {
    for (const link of [...this.links]) {
      this.forget(link);
      link.events.close(code, reason);
    }
  }

  /** Send *push* to every client. */
  push(push: Record<string, unknown>): void {
    for (const link of this.links) link.push(push);
  }

  /** Drop the history of *channel*, so that nobody can resume there. */
  forgetHistory(channel: string): void {
    this.channels.delete(channel);
    this.histories++;
  }

  /** @internal */
  channel(name: string): FakeChannel {
    let channel = this.channels.get(name);
    if (!channel) this.channels.set(name, (channel = { uid: `fake${this.histories || ""}`, log: [], links: new Set() }));
    return channel;
  }

  /** @internal */
  forget(link: FakeLink): void {
    this.links.delete(link);
    for (const { links } of this.channels.values()) links.delete(link);
  }

  /** @internal */
  answer(link: FakeLink, command: Record<string, any>): Record<string, unknown> | undefined {
    this.received.push(command);
    const { id, type, channel } = command;
    switch (type) {
      case "connect": {
        const subs = Object.entries(command.subs ?? {}).map(([name, options]) => [name, this.subscribe(link, name, options as any)]);
        const reply = { connection: link.connection, user: "fake", node: "fake", heartbeat: 25, limits: {} };
        return { type: "connected", id, ...reply, subs: Object.fromEntries(subs) };
      }
      case "subscribe":
        return { ...this.subscribe(link, channel, command), id };
      case "unsubscribe":
        this.channel(channel).links.delete(link);
        return { type: "unsubscribed", id, channel };
      case "publish": {
        const key = `${channel} ${command.key}`;
        const message = this.keys.get(key) ?? this.publish(channel, command.data, { connection: link.connection, user: "fake" });
        this.keys.set(key, message);
        return { type: "published", id, channel, message };
      }
      case "presence": {
        const members = [...this.channel(channel).links].map(({ connection }) => ({ connection, user: "fake" }));
        return { type, id, channel, connections: members.length, users: 1, members };
      }
      case "history": {
        const { log } = this.channel(channel);
        const after = log.slice(log.findIndex(({ message }) => message === command.since) + 1);
        return { type, id, channel, position: this.position(channel), messages: after.slice(0, command.limit ?? 100) };
      }
      case "refresh":
        return { type: "refreshed", id };
      case "ping":
        return { type: "pong", id };
      default:
        return undefined;
    }
  }

  private subscribe(link: FakeLink, channel: string, options: { since?: string; rewind?: number }): Record<string, unknown> {
    const { log, links, uid } = this.channel(channel);
    links.add(link);
    const index = log.findIndex(({ message }) => message === options.since);
    const first = log[0]?.message?.split("-")[0] === "1" && options.since === `0-${uid}`;
    const recovered = options.since !== undefined && (index >= 0 || first || options.since === this.position(channel));
    const messages = recovered ? log.slice(index + 1) : options.since === undefined ? log.slice(log.length - (options.rewind ?? 0)) : [];
    return { type: "subscribed", channel, position: this.position(channel), recovered, messages };
  }

  private position(channel: string): string {
    const { log, uid } = this.channel(channel);
    return log[log.length - 1]?.message ?? `0-${uid}`;
  }
}

class FakeLink {
  constructor(
    private readonly gateway: FakeGateway,
    readonly events: LinkEvents,
    readonly connection: string,
  ) {}

  push(push: unknown): void {
    this.events.message(JSON.stringify(push));
  }

  send(data: string | Uint8Array): void {
    const reply = this.gateway.answer(this, JSON.parse(data as string));
    if (reply) queueMicrotask(() => this.events.message(JSON.stringify(reply)));
  }

  close(): void {
    this.gateway.forget(this);
  }
}
