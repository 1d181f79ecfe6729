/**
 * Messages of a channel, with those that this client publishes shown at once:
 *
 *     const list = new OptimisticMessages(fanway, fanway.channel("chat:1"));
 *     list.onChange(({ messages }) => render(messages));
 *     await list.publish({ text: "hello" });
 */

import type { Channel } from "./channel.js";
import type { Fanway } from "./client.js";
import { browser } from "./environment.js";
import { Emitter } from "./emitter.js";
import type { FanwayError } from "./errors.js";
import type { Published, PublishOptions } from "./publisher.js";
import type { Message } from "./subscription.js";

/**
 * - `pending`: published here, and the gateway has not answered yet.
 * - `sent`: the gateway has it.
 * - `uncertain`: it may have been published; see `error`.
 */
export type MessageStatus = "pending" | "sent" | "uncertain";

export interface OptimisticMessage<Data = unknown> extends Message<Data> {
  /** Names the message for as long as it is in the list, for example for React: the key that it was published with. */
  key: string;
  status: MessageStatus;
  error?: FanwayError;
}

/** A message of the channel; `hidden` while it may be the echo of one that is pending. */
interface Received<Data> {
  message: OptimisticMessage<Data>;
  own: boolean;
  hidden: boolean;
}

export class OptimisticMessages<Data = any> {
  private readonly _emitter = new Emitter((error) => console.error(error));
  private readonly _received: Received<Data>[] = [];
  /** What was published here and has not come back, oldest first. */
  private _published: OptimisticMessage<Data>[] = [];
  /** Connections of this client, by which it knows its own messages. */
  private readonly _connections = new Set<string>();
  private readonly _stop: (() => void)[];
  private _count = 0;

  /** *limit* is how many of the newest messages are kept, beside those that are pending. */
  constructor(
    private readonly _fanway: Fanway<any>,
    readonly channel: Channel<Data>,
    private readonly _limit = 100,
  ) {
    const connected = () => _fanway.info && this._connections.add(_fanway.info.connection);
    connected();
    this._stop = [_fanway.on("state", connected), channel.on("message", (message) => this._onMessage(message))];
  }

  /** The newest last; those that are not in the channel yet come after all others. */
  get messages(): readonly OptimisticMessage<Data>[] {
    return [...this._received.filter(({ hidden }) => !hidden).map(({ message }) => message), ...this._published];
  }

  /** Call *listener* after each change; return a function that ends it. */
  onChange(listener: (list: OptimisticMessages<Data>) => void): () => void {
    return this._emitter.on("change", listener);
  }

  /**
   * Publish *data* and show it at once as `pending`. It becomes `sent` as soon as the gateway has it, `uncertain` if nobody
   * can say; where it was not published it is removed. The promise settles as that of `channel.publish`.
   */
  async publish(data: Data, options: PublishOptions = {}): Promise<Published> {
    const { key = browser.key() } = options;
    const user = this._fanway.info;
    const message: OptimisticMessage<Data> = {
      channel: this.channel.name,
      key,
      data,
      status: "pending",
      ...(user && { from: { connection: user.connection, user: user.user } }),
    };
    this._published.push(message);
    this._changed();
    try {
      const published = await this.channel.publish(data, { ...options, key });
      this._settle(message, { id: published.id, status: "sent" });
      return published;
    } catch (error) {
      const { code } = error as FanwayError;
      if (code === "uncertain") this._settle(message, { status: "uncertain", error: error as FanwayError });
      else this.remove(key);
      throw error;
    }
  }

  /** Take the message *key* out, for example an uncertain one that the user gave up. */
  remove(key: string): void {
    this._published = this._published.filter((message) => message.key !== key);
    this._settled();
  }

  /** End what this object listens to; the channel's other listeners stay. */
  close(): void {
    this._emitter.clear();
    for (const stop of this._stop) stop();
  }

  private _onMessage(message: Message<Data>): void {
    const own = message.from !== undefined && this._connections.has(message.from.connection);
    const received = {
      message: { ...message, key: message.id ?? `received-${++this._count}`, status: "sent" as const },
      own,
      // Until the reply says which message it is, it may be one that is shown already.
      hidden: own && this._published.some(({ status }) => status === "pending"),
    };
    this._received.push(received);
    const published = this._published.find((candidate) => isEcho(candidate, received));
    if (published) this._merge(published, received);
    this._changed();
  }

  /** The answer to the publish of *message* is there. */
  private _settle(message: OptimisticMessage<Data>, change: Partial<OptimisticMessage<Data>>): void {
    const settled = { ...message, ...change };
    this._published = this._published.map((each) => (each === message ? settled : each));
    const received = this._received.find((candidate) => isEcho(settled, candidate));
    if (received) this._merge(settled, received);
    this._settled();
  }

  /** *received* is the echo of *published*: one message, at the place of the echo, under the key of the publish. */
  private _merge(published: OptimisticMessage<Data>, received: Received<Data>): void {
    received.message = { ...received.message, key: published.key };
    received.own = received.hidden = false;
    this._published = this._published.filter((each) => each !== published);
  }

  /** Show own messages that no pending one can be. */
  private _settled(): void {
    if (!this._published.some(({ status }) => status === "pending")) for (const each of this._received) each.hidden = false;
    this._changed();
  }

  private _changed(): void {
    this._received.splice(0, this._received.length - this._limit);
    this._emitter.emit("change", this);
  }
}

/**
 * Whether *received* is what *published* became. Its id says so; in a channel without history, whose messages have none,
 * and where no answer came, it is the first of this client's with the same data.
 */
function isEcho<Data>(published: OptimisticMessage<Data>, { message, own }: Received<Data>): boolean {
  if (published.status === "pending") return false;
  if (published.id) return published.id === message.id;
  return own && JSON.stringify(published.data) === JSON.stringify(message.data);
}
