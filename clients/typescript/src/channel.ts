/** What the application holds of a channel: listeners, a `for await` loop, publish, presence, history. */

import { Emitter } from "./emitter.js";
import { FanwayError } from "./errors.js";
import type { Published, PublishOptions } from "./publisher.js";
import { messageOf } from "./subscription.js";
import type { ChannelOptions, Gap, Message, Sink, Subscription, SubscriptionState } from "./subscription.js";
import type { HistoryReply, Member, PresenceReply } from "./wire.js";

export interface ChannelEvents<Data> {
  message: Message<Data>;
  /** Messages are missing at this point: load what the application derives from them. */
  gap: Gap;
  /** Who is here at the begin of every subscription, with the option `presence`. */
  members: Member[];
  join: Member;
  leave: Member;
  update: Member;
  state: { channel: string; state: SubscriptionState; error?: FanwayError };
}

export interface HistoryOptions {
  /** Messages of one request; the gateway may send fewer. */
  pageSize?: number;
  /** Begin after this message id; with `reverse`, before it. */
  since?: string;
  /** The newest first. */
  reverse?: boolean;
}

/** What a handle needs of its client. */
export interface ChannelOwner {
  acquire(channel: string, options: ChannelOptions, sink: Sink): Subscription;
  release(subscription: Subscription, sink: Sink): void;
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<Published>;
  request<Reply>(command: { type: string } & Record<string, unknown>): Promise<Reply>;
  reportError(error: unknown): void;
}

const BUFFER = 1_000;

/**
 * One handle on a channel. All handles of a name share one subscription, which begins with the first listener or
 * `for await` loop and ends after the last.
 */
export class Channel<Data = unknown> implements AsyncIterable<Message<Data>>, Sink {
  private readonly emitter: Emitter;
  private readonly queues = new Set<MessageQueue<Data>>();
  private subscription: Subscription | undefined;
  /** Listeners and loops; the handle lets go of the subscription with the last one. */
  private uses = 0;

  constructor(
    readonly name: string,
    private readonly options: ChannelOptions,
    private readonly owner: ChannelOwner,
  ) {
    this.emitter = new Emitter((error) => owner.reportError(error));
  }

  /** `idle`, `pending`, `live` or `gone`. */
  get state(): SubscriptionState {
    return this.subscription?.state ?? "idle";
  }

  /** The id of the last message that every listener has handled. */
  get position(): string | undefined {
    return this.subscription?.position;
  }

  /** Call *listener* for each event; return a function that ends it. Subscribes. */
  on<Type extends keyof ChannelEvents<Data>>(
    type: Type,
    listener: (event: ChannelEvents<Data>[Type]) => void,
    { signal }: { signal?: AbortSignal } = {},
  ): () => void {
    if (signal?.aborted) return () => {};
    const remove = this.emitter.on(type, listener);
    const release = this.use();
    const off = () => {
      signal?.removeEventListener("abort", off);
      remove();
      release();
    };
    signal?.addEventListener("abort", off);
    return off;
  }

  /** The messages from now on. The loop ends with `close`, or throws: `overflow`, or why the channel is gone. */
  [Symbol.asyncIterator](): AsyncIterator<Message<Data>> {
    return this.messages();
  }

  /** As `for await`, until *signal* aborts. */
  messages({ signal }: { signal?: AbortSignal } = {}): AsyncIterableIterator<Message<Data>> {
    const queue = new MessageQueue<Data>(this.options.buffer ?? BUFFER, () => {
      signal?.removeEventListener("abort", end);
      this.queues.delete(queue);
      release();
    });
    const end = () => queue.end();
    this.queues.add(queue);
    const release = this.use();
    if (signal?.aborted) end();
    else signal?.addEventListener("abort", end);
    const { error } = this.subscription ?? {};
    if (this.state === "gone") queue.end(error);
    return queue;
  }

  /**
   * Publish *data*; return its receipt. It is sent when there is a connection, and again under the same key after a
   * lost one, but never visible twice.
   *
   * Rejects with `timeout` or `queue_full` (not published), `uncertain` (may have been published), or the gateway's code.
   */
  publish(data: Data, options?: PublishOptions): Promise<Published> {
    return this.owner.publish(this.name, data, options);
  }

  readonly presence = {
    /** Return who is here now. */
    get: async ({ members = true }: { members?: boolean } = {}): Promise<Omit<PresenceReply, "type" | "id">> => {
      const { type: _type, id: _id, ...reply } = await this.owner.request<PresenceReply>({
        type: "presence",
        channel: this.name,
        members,
      });
      return reply;
    },
  };

  /** The messages that the channel keeps, page by page: the oldest first, or the newest with `reverse`. */
  async *history({ pageSize, since, reverse }: HistoryOptions = {}): AsyncGenerator<Message<Data>, void, undefined> {
    for (let after = since; ; ) {
      const page = await this.owner.request<HistoryReply>({
        type: "history",
        channel: this.name,
        ...(pageSize !== undefined && { limit: pageSize }),
        ...(after !== undefined && { since: after }),
        ...(reverse && { reverse }),
      });
      if (!page.messages.length) return;
      for (const push of page.messages) yield messageOf<Data>(push);
      after = page.messages[page.messages.length - 1]!.message;
      if (after === undefined) return;
    }
  }

  /** Let go of the channel: listeners are removed, loops end. The handle can be used again. */
  close(): void {
    for (const queue of [...this.queues]) queue.end();
    this.emitter.clear();
    this.uses = 0;
    this.letGo();
  }

  // ---------------------------------------------------------------- what the subscription calls

  /** @internal */
  onMessage(message: Message): void {
    for (const queue of this.queues) queue.push(message as Message<Data>);
    this.emitter.emit("message", message);
  }

  /** @internal */
  onEvent(type: string, event: unknown): void {
    this.emitter.emit(type, event);
    const { state, error } = event as { state?: SubscriptionState; error?: FanwayError };
    if (type === "state" && state === "gone") for (const queue of [...this.queues]) queue.end(error);
  }

  /** @internal */
  missesGaps(): boolean {
    return !this.emitter.has("gap") && (this.emitter.has("message") || this.queues.size > 0);
  }

  private use(): () => void {
    this.uses++;
    this.subscription ??= this.owner.acquire(this.name, this.options, this);
    const { subscription } = this;
    let used = true;
    return () => {
      if (!used || subscription !== this.subscription) return;
      used = false;
      if (--this.uses <= 0) this.letGo();
    };
  }

  private letGo(): void {
    const { subscription } = this;
    this.subscription = undefined;
    if (subscription) this.owner.release(subscription, this);
  }
}

/** Messages between a subscription and one `for await` loop. */
class MessageQueue<Data> implements AsyncIterableIterator<Message<Data>> {
  private readonly waiting: Message<Data>[] = [];
  private wake: (() => void) | undefined;
  private ended = false;
  private error: FanwayError | undefined;

  constructor(
    private readonly limit: number,
    private readonly onEnd: () => void,
  ) {}

  push(message: Message<Data>): void {
    if (this.ended) return;
    if (this.waiting.length >= this.limit) return this.end(new FanwayError("overflow", `${this.limit} messages waited for a slow loop`));
    this.waiting.push(message);
    this.wake?.();
  }

  end(error?: FanwayError): void {
    if (this.ended) return;
    this.ended = true;
    this.error = error;
    this.onEnd();
    this.wake?.();
  }

  async next(): Promise<IteratorResult<Message<Data>>> {
    while (!this.waiting.length) {
      if (this.ended) {
        const { error } = this;
        this.error = undefined;
        if (error) throw error;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
    return { done: false, value: this.waiting.shift()! };
  }

  async return(): Promise<IteratorResult<Message<Data>>> {
    this.waiting.length = 0;
    this.end();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
