/** Runs one scenario of docs/vectors/client: what happens to a client, and all that it does, in order. */

import { type Channel, Fanway, type FanwayError, type LinkEvents, type Transport, UnauthorizedError } from "../src/index.js";
import { FakeClock, settle } from "../src/testing.js";

export type Action = [name: string, ...args: unknown[]];

export interface Step {
  do: Action;
  expect: Action[];
}

export interface Scenario {
  name: string;
  options?: { token?: boolean; channel_tokens?: boolean; endpoints?: number; random?: number };
  steps: Step[];
}

class Deferred<T> {
  resolve!: (value: T) => void;
  reject!: (error: unknown) => void;
  readonly promise = new Promise<T>((resolve, reject) => Object.assign(this, { resolve, reject }));
}

/** A client whose every action is written down. */
class Subject {
  readonly actions: Action[] = [];
  readonly clock = new FakeClock();
  readonly fanway: Fanway;
  private events: LinkEvents | undefined;
  private token = new Deferred<string>();
  private channelTokens = new Deferred<Record<string, string>>();
  private loads = new Map<string, Deferred<{ position?: string } | void>>();
  private handles = new Map<string, Channel>();
  private throwNext = false;

  constructor({ options = {} }: Scenario) {
    this.clock.chance = options.random ?? 0.5;
    const urls = Array.from({ length: options.endpoints ?? 1 }, (_, index) => `ws://endpoint-${index}/v1/ws`);
    this.fanway = new Fanway(urls, {
      environment: this.clock,
      transports: [this.transport],
      ...(options.token && {
        getToken: (reason) => {
          this.act("get_token", reason);
          this.token = new Deferred();
          return this.token.promise;
        },
      }),
      ...(options.channel_tokens && {
        getChannelTokens: (channels) => {
          this.act("get_channel_tokens", channels);
          this.channelTokens = new Deferred();
          return this.channelTokens.promise;
        },
      }),
    });
    this.fanway.on("state", ({ state, code, delay }) => this.act("state", state, { ...(code !== undefined && { code }), ...(delay !== undefined && { delay }) }));
    this.fanway.on("error", () => this.act("error"));
  }

  private readonly transport: Transport = {
    name: "scripted",
    connect: (url, _codec, events) => {
      this.act("open", Number(/endpoint-(\d+)/.exec(url)![1]));
      this.events = events;
      return {
        send: (data) => this.act("send", JSON.parse(data as string)),
        close: () => {
          this.act("drop");
          this.events = undefined;
        },
      };
    },
  };

  private act(...action: Action): void {
    this.actions.push(action);
  }

  private end(code: number, reason: string, rejection?: { status: number; retryAfter?: number }): void {
    const { events } = this;
    this.events = undefined;
    events!.close(code, reason, rejection);
  }

  private channel(name: string, { load, ...options }: { load?: boolean; rewind?: number; presence?: boolean; token?: boolean } = {}): void {
    const handle = this.fanway.channel(name, {
      ...options,
      ...(load && {
        loadState: ({ reason, position }) => {
          this.act("load", name, reason, position ?? null);
          const deferred = new Deferred<{ position?: string } | void>();
          this.loads.set(name, deferred);
          return deferred.promise;
        },
      }),
    });
    this.handles.set(name, handle);
    handle.on("state", ({ state, error }) => this.act("channel", name, state, ...(error ? [error.code] : [])));
    handle.on("gap", ({ reason }) => this.act("gap", name, reason));
    handle.on("message", ({ id, data }) => {
      this.act("message", name, id ?? null, data);
      if (!this.throwNext) return;
      this.throwNext = false;
      throw new Error("a handler threw");
    });
  }

  private publish(label: string, channel: string, data: unknown, options: { key?: string; timeout?: number } = {}): void {
    this.fanway.channel(channel).publish(data, options).then(
      ({ id }) => this.act("published", label, id ?? null),
      ({ code }: FanwayError) => this.act("publish_failed", label, code),
    );
  }

  private readonly inputs: Record<string, (...args: any[]) => unknown> = {
    connect: () => this.fanway.connect(),
    close: () => this.fanway.close(),
    set_token: (token) => this.fanway.setToken(token),
    channel: (name, options) => this.channel(name, options),
    relisten: (name, options) => {
      this.handles.get(name)!.close();
      this.channel(name, options);
    },
    release: (name) => this.handles.get(name)!.close(),
    publish: (label, channel, data, options) => this.publish(label, channel, data, options),
    page: (event) => this.clock.page(event),
    network: (online) => (this.clock.network = online),
    opened: () => this.events!.open(),
    rejected: (status, retryAfter) => this.end(1006, "", { status, ...(retryAfter != null && { retryAfter }) }),
    closed: (code, reason = "") => this.end(code, reason),
    receive: (...messages) => messages.forEach((message) => this.events!.message(JSON.stringify(message))),
    receive_text: (text) => this.events!.message(text),
    advance: (ms) => this.clock.advance(ms),
    sleep: (ms) => this.clock.sleep(ms),
    token: (token) => this.token.resolve(token),
    token_fails: (kind) => this.token.reject(kind === "unauthorized" ? new UnauthorizedError() : new Error("no token")),
    channel_tokens: (tokens) => this.channelTokens.resolve(tokens),
    channel_tokens_fail: () => this.channelTokens.reject(new Error("no tokens")),
    loaded: (name, position) => this.loads.get(name)!.resolve(position == null ? undefined : { position }),
    load_fails: (name) => this.loads.get(name)!.reject(new Error("not loaded")),
    throw_next: () => (this.throwNext = true),
  };

  /** Do *action*; return everything that the client did because of it. */
  async run([name, ...args]: Action): Promise<Action[]> {
    this.actions.length = 0;
    await this.inputs[name]!(...args);
    await settle();
    return [...this.actions];
  }
}

/** Return the actions of every step, and how much is left of the client after `close`. */
export async function run(scenario: Scenario): Promise<{ actions: Action[][]; leaks: number }> {
  const subject = new Subject(scenario);
  const actions: Action[][] = [];
  for (const step of scenario.steps) actions.push(await subject.run(step.do));
  await subject.run(["close"]);
  return { actions, leaks: subject.clock.pending };
}
