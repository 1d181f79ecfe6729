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
  private _keys = 0;
  private readonly _timers = new Set<Timer>();
  private readonly _listeners = new Set<(event: PageEvent) => void>();

  now = (): number => this.time;
  random = (): number => this.chance;
  key = (): string => `key-${++this._keys}`;
  online = (): boolean => this.network;

  setTimer = (callback: () => void, ms: number): Timer => {
    const timer = { due: this.time + Math.max(0, ms), callback };
    this._timers.add(timer);
    return timer;
  };

  clearTimer = (timer: unknown): void => {
    this._timers.delete(timer as Timer);
  };

  listen = (onEvent: (event: PageEvent) => void): (() => void) => {
    this._listeners.add(onEvent);
    return () => this._listeners.delete(onEvent);
  };

  /** Timers that have not fired, and listeners to page events: 0 after `close`. */
  get pending(): number {
    return this._timers.size + this._listeners.size;
  }

  /** Dispatch an event of the page. */
  async page(event: PageEvent): Promise<void> {
    for (const listener of [...this._listeners]) listener(event);
    await settle();
  }

  /** Let *ms* pass; timers fire in order, each at its time. */
  async advance(ms: number): Promise<void> {
    const end = this.time + ms;
    await settle();
    for (let next = this._next(end); next; next = this._next(end)) {
      this.time = Math.max(this.time, next.due);
      this._timers.delete(next);
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

  private _next(end: number): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this._timers) if (timer.due <= end && (!first || timer.due < first.due)) first = timer;
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
  private readonly _channels = new Map<string, FakeChannel>();
  private readonly _links = new Set<FakeLink>();
  private readonly _keys = new Map<string, string>();
  private _connections = 0;
  private _histories = 0;

  /** *history* is the number of messages that each channel keeps. */
  constructor({ clock = new FakeClock(), history = 100 }: { clock?: FakeClock; history?: number } = {}) {
    this.clock = clock;
    this._history = history;
  }

  private readonly _history: number;

  /** What to pass to `new Fanway`. */
  get options(): Pick<FanwayOptions, "environment" | "transports"> {
    return { environment: this.clock, transports: [this.transport] };
  }

  readonly transport: Transport = {
    name: "fake",
    connect: (_url, _codec, events) => {
      const link = new FakeLink(this, events, `connection-${++this._connections}`);
      this._links.add(link);
      queueMicrotask(() => this._links.has(link) && events.open());
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
    if (log.length > this._history) log.shift();
    for (const link of links) link.push(push);
    return push.message!;
  }

  /** Break every connection, without a close code. */
  cut(): void {
    this.close(1006);
  }

  /** Close every connection with *code*. */
  close(code: number, reason = ""): void {
    for (const link of [...this._links]) {
      this.forget(link);
      link.events.close(code, reason);
    }
  }

  /** Send *push* to every client. */
  push(push: Record<string, unknown>): void {
    for (const link of this._links) link.push(push);
  }

  /** Return the data of the messages that *channel* keeps, oldest first. */
  history(channel: string): unknown[] {
    return this.channel(channel).log.map(({ data }) => data);
  }

  /** Drop the history of *channel*, so that nobody can resume there. */
  forgetHistory(channel: string): void {
    this._channels.delete(channel);
    this._histories++;
  }

  /** @internal */
  channel(name: string): FakeChannel {
    let channel = this._channels.get(name);
    if (!channel) this._channels.set(name, (channel = { uid: `fake${this._histories || ""}`, log: [], links: new Set() }));
    return channel;
  }

  /** @internal */
  forget(link: FakeLink): void {
    this._links.delete(link);
    for (const { links } of this._channels.values()) links.delete(link);
  }

  /** @internal */
  answer(link: FakeLink, command: Record<string, any>): Record<string, unknown> | undefined {
    this.received.push(command);
    const { id, type, channel } = command;
    switch (type) {
      case "connect": {
        const subs = Object.entries(command.subs ?? {}).map(([name, options]) => [name, this._subscribe(link, name, options as any)]);
        const reply = { connection: link.connection, user: "fake", node: "fake", heartbeat: 25, limits: {} };
        return { type: "connected", id, ...reply, subs: Object.fromEntries(subs) };
      }
      case "subscribe":
        return { ...this._subscribe(link, channel, command), id };
      case "unsubscribe":
        this.channel(channel).links.delete(link);
        return { type: "unsubscribed", id, channel };
      case "publish": {
        const key = `${channel} ${command.key}`;
        const message = this._keys.get(key) ?? this.publish(channel, command.data, { connection: link.connection, user: "fake" });
        this._keys.set(key, message);
        return { type: "published", id, channel, message };
      }
      case "presence": {
        const members = [...this.channel(channel).links].map(({ connection }) => ({ connection, user: "fake" }));
        return { type, id, channel, connections: members.length, users: 1, members };
      }
      case "history": {
        const { log } = this.channel(channel);
        const index = log.findIndex(({ message }) => message === command.since);
        const messages = command.reverse ? log.slice(0, index < 0 ? undefined : index).reverse() : log.slice(index + 1);
        return { type, id, channel, position: this.position(channel), messages: messages.slice(0, command.limit ?? 100) };
      }
      case "refresh":
        return { type: "refreshed", id };
      case "ping":
        return { type: "pong", id };
      default:
        return undefined;
    }
  }

  private _subscribe(link: FakeLink, channel: string, options: { since?: string; rewind?: number }): Record<string, unknown> {
    const { log, links, uid } = this.channel(channel);
    links.add(link);
    const index = log.findIndex(({ message }) => message === options.since);
    const first = log[0]?.message?.split("-")[0] === "1" && options.since === `0-${uid}`;
    const recovered = options.since !== undefined && (index >= 0 || first || options.since === this.position(channel));
    const messages = recovered ? log.slice(index + 1) : options.since === undefined ? log.slice(Math.max(0, log.length - (options.rewind ?? 0))) : [];
    return { type: "subscribed", channel, position: this.position(channel), recovered, messages };
  }

  /** Return the position of *channel*, as `GET /v1/channels` does. */
  position(channel: string): string {
    const { log, uid } = this.channel(channel);
    return log[log.length - 1]?.message ?? `0-${uid}`;
  }
}

class FakeLink {
  constructor(
    private readonly _gateway: FakeGateway,
    readonly events: LinkEvents,
    readonly connection: string,
  ) {}

  push(push: unknown): void {
    this.events.message(JSON.stringify(push));
  }

  send(data: string | Uint8Array): void {
    const reply = this._gateway.answer(this, JSON.parse(data as string));
    if (reply) queueMicrotask(() => this.events.message(JSON.stringify(reply)));
  }

  close(): void {
    this._gateway.forget(this);
  }
}
