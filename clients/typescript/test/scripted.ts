/** A transport whose other end is the test: it sees every command, and answers when it likes. */

import type { Codec, LinkEvents, Transport } from "../src/index.js";
import { settle } from "../src/testing.js";

export class Scripted implements Transport {
  /** Commands that arrived, oldest first. */
  readonly sent: Record<string, any>[] = [];
  /** URLs that were opened. */
  readonly opened: string[] = [];
  private events: LinkEvents | undefined;

  constructor(
    readonly name = "scripted",
    readonly codec?: Codec,
  ) {}

  connect(url: string, _codec: Codec, events: LinkEvents) {
    this.opened.push(url);
    this.events = events;
    return {
      send: (data: string | Uint8Array) => void this.sent.push(JSON.parse(data as string)),
      close: () => (this.events = undefined),
    };
  }

  /** The connection that is open, or being opened. */
  get link(): LinkEvents {
    if (!this.events) throw new Error(`${this.name} has no connection`);
    return this.events;
  }

  get isUsed(): boolean {
    return this.events !== undefined;
  }

  /** Return the newest command of *type*. */
  last(type: string): Record<string, any> {
    const found = this.sent.filter((command) => command.type === type).pop();
    if (!found) throw new Error(`no ${type} was sent`);
    return found;
  }

  /** The gateway sends *messages*, each alone. */
  async receive(...messages: Record<string, unknown>[]): Promise<void> {
    for (const message of messages) this.link.message(JSON.stringify(message));
    await settle();
  }

  /** Answer the newest command of *type*. */
  async reply(type: string, reply: Record<string, unknown>): Promise<void> {
    await this.receive({ id: this.last(type).id, ...reply });
  }

  /** Open the socket, and accept `connect` with *subs*. */
  async accept(subs: Record<string, unknown> = {}): Promise<void> {
    this.link.open();
    await settle();
    await this.reply("connect", { type: "connected", connection: "c", user: "anna", node: "n", heartbeat: 25, limits: {}, subs });
  }

  /** The connection breaks, or could not be opened. */
  async fail(code = 1006, reason = ""): Promise<void> {
    const { link } = this;
    this.events = undefined;
    link.close(code, reason);
    await settle();
  }
}

export const message = (n: number, channel = "news") => ({ type: "message", channel, message: `${n}-u`, data: n });
export const subscribed = (position: number, numbers: number[] = [], channel = "news") => ({
  type: "subscribed",
  channel,
  position: `${position}-u`,
  recovered: true,
  messages: numbers.map((n) => message(n, channel)),
});
