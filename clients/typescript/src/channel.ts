/** What the application holds of a channel: listeners, a `for await` loop, publish, presence, history. */

import { Emitter } from "./emitter.js";
import { FanwayError } from "./errors.js";
import type { Published, PublishOptions } from "./publisher.js";
import { history } from "./history.js";
import type { ChannelOptions, Gap, Lag, Message, Sink, Subscription, SubscriptionState } from "./subscription.js";
import type { Member, PresenceReply } from "./wire.js";

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
  _acquire(channel: string, options: ChannelOptions, sink: Sink): Subscription;
  _release(subscription: Subscription, sink: Sink): void;
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<Published>;
  request<Reply>(command: { type: string } & Record<string, unknown>): Promise<Reply>;
  _reportError(error: unknown): void;
}

const BUFFER = 1_000;

/**
 * One handle on a channel. All handles of a name share one subscription, which begins with the first listener or
 * `for await` loop and ends after the last.
 */
export class Channel<Data = unknown> implements AsyncIterable<Message<Data>>, Sink {
  private readonly _emitter: Emitter;
  private readonly _queues = new Set<MessageQueue<Data>>();
  private _subscription: Subscription | undefined;
  /** Listeners and loops; the handle lets go of the subscription with the last one. */
  private _uses = 0;

  constructor(
    readonly name: string,
    private readonly _options: ChannelOptions,
    private readonly _owner: ChannelOwner,
  ) {
    this._emitter = new Emitter((error) => _owner._reportError(error));
  }

  /** `idle`, `pending`, `live` or `gone`. */
  get state(): SubscriptionState {
    return this._subscription?.state ?? "idle";
  }

  /** The id of the last message that every listener has handled. */
  get position(): string | undefined {
    return this._subscription?.position;
  }

  /** Call *listener* for each event; return a function that ends it. Subscribes. */
  on<Type extends keyof ChannelEvents<Data>>(
    type: Type,
    listener: (event: ChannelEvents<Data>[Type]) => void,
    { signal }: { signal?: AbortSignal } = {},
  ): () => void {
    if (signal?.aborted) return () => {};
    const remove = this._emitter.on(type, listener);
    const release = this._use();
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
    const onEnd = () => {
      signal?.removeEventListener("abort", end);
      this._queues.delete(queue);
      release();
    };
    const queue = new MessageQueue<Data>(this._options.buffer ?? BUFFER, onEnd, () => this._subscription?._owner._onHandled());
    const end = () => queue.end();
    this._queues.add(queue);
    const release = this._use();
    queue._handled = this.position;
    if (signal?.aborted) end();
    else signal?.addEventListener("abort", end);
    const { error } = this._subscription ?? {};
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
    return this._owner.publish(this.name, data, options);
  }

  readonly presence = {
    /** Return who is here now. */
    get: async ({ members = true }: { members?: boolean } = {}): Promise<Omit<PresenceReply, "type" | "id">> => {
      const { type: _type, id: _id, ...reply } = await this._owner.request<PresenceReply>({
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
      const page = await history<Data>(this._owner, this.name, {
        limit: pageSize,
        since: after,
        reverse,
      });
      yield* page;
      after = page[page.length - 1]?.id;
      if (!after) return;
    }
  }

  /** Let go of the channel: listeners are removed, loops end. The handle can be used again. */
  close(): void {
    for (const queue of [...this._queues]) queue.end();
    this._emitter.clear();
    this._uses = 0;
    this._letGo();
  }

  // ---------------------------------------------------------------- what the subscription calls

  /** @internal */
  _onMessage(message: Message): void {
    for (const queue of this._queues) queue.push(message as Message<Data>);
    this._emitter.emit("message", message);
  }

  /** @internal */
  _onEvent(type: string, event: unknown): void {
    this._emitter.emit(type, event);
    const { state, error } = event as { state?: SubscriptionState; error?: FanwayError };
    if (type === "state" && state === "gone") for (const queue of [...this._queues]) queue.end(error);
  }

  /** @internal */
  _missesGaps(): boolean {
    return !this._emitter.has("gap") && (this._emitter.has("message") || this._queues.size > 0);
  }

  /** @internal */
  _slowest(than: Lag | undefined): Lag | undefined {
    return [...this._queues].reduce((slowest, queue) => (queue._behind > (slowest?._behind ?? 0) ? queue : slowest), than);
  }

  private _use(): () => void {
    this._uses++;
    this._subscription = this._subscription ?? this._owner._acquire(this.name, this._options, this);
    const { _subscription: subscription } = this;
    let used = true;
    return () => {
      if (!used || subscription !== this._subscription) return;
      used = false;
      if (--this._uses <= 0) this._letGo();
    };
  }

  private _letGo(): void {
    const { _subscription: subscription } = this;
    this._subscription = undefined;
    if (subscription) this._owner._release(subscription, this);
  }
}

/** Messages between a subscription and one `for await` loop. */
class MessageQueue<Data> implements AsyncIterableIterator<Message<Data>>, Lag {
  private readonly _waiting: Message<Data>[] = [];
  private _wake: (() => void) | undefined;
  private _ended = false;
  private _error: FanwayError | undefined;
  /** The id of the last message that the loop was done with: it asked for the next one. */
  _handled: string | undefined;
  /** The message that the loop is busy with. */
  private _taken: Message<Data> | undefined;

  constructor(
    private readonly _limit: number,
    private readonly _onEnd: () => void,
    private readonly _onHandled: () => void,
  ) {}

  /** Messages that the loop is not done with. */
  get _behind(): number {
    return this._waiting.length + (this._taken ? 1 : 0);
  }

  push(message: Message<Data>): void {
    if (this._ended) return;
    if (this._waiting.length >= this._limit) return this.end(new FanwayError("overflow", `${this._limit} messages waited for a slow loop`));
    this._waiting.push(message);
    this._wake?.();
  }

  end(error?: FanwayError): void {
    if (this._ended) return;
    this._ended = true;
    this._error = error;
    this._onEnd();
    this._wake?.();
  }

  async next(): Promise<IteratorResult<Message<Data>>> {
    if (this._taken) {
      this._handled = this._taken.id ?? this._handled;
      this._taken = undefined;
      this._onHandled();
    }
    while (!this._waiting.length) {
      if (this._ended) {
        const { _error: error } = this;
        this._error = undefined;
        if (error) throw error;
        return { done: true, value: undefined };
      }
      await new Promise<void>((resolve) => (this._wake = resolve));
    }
    this._taken = this._waiting.shift()!;
    return { done: false, value: this._taken };
  }

  async return(): Promise<IteratorResult<Message<Data>>> {
    this._waiting.length = 0;
    this.end();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
