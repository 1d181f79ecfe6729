/** What one handle gets of a subscription: every message, after the state or the rewind that it asked for. */

import type { FanwayError } from "./errors.js";
import type { ChannelOptions, LoadRequest, Message, Sink, Subscription } from "./subscription.js";

/** Messages that are held while a state is loaded, before they are dropped and the state is loaded once more. */
const MAX_HELD = 1_000;

/**
 * Delivers to one handle. While the handle's `loadState` runs, or its `rewind` is fetched because others followed the
 * channel before it, the messages are held; those that are not in there follow. Other feeds notice nothing.
 */
export class Feed {
  private _held: Message[] | undefined;
  /** The id of the last message that arrived before those that are held. */
  private _before: string | undefined;
  private _heldTooMuch = false;
  /** Counts loads, so that the answer to an earlier one has no effect. */
  private _loads = 0;
  /** How often in a row the stream was to go on after the position of a loaded state. */
  private _rejoins = 0;
  /** Aborts the call of `loadState` whose answer would have no effect. */
  private _abort: AbortController | undefined;
  /** Why something has to be loaded, or is being loaded; undefined where the handle follows the stream. */
  private _unloaded: LoadRequest["reason"] | undefined;
  /** Called by the next message that is held. */
  private _wake: (() => void) | undefined;

  constructor(
    private readonly _subscription: Subscription,
    private readonly _sink: Sink,
    private readonly _options: ChannelOptions,
    late: boolean,
  ) {
    if (late || _options.loadState) this._unloaded = "first";
  }

  get _holding(): boolean {
    return this._held !== undefined;
  }

  /** The channel is live: load what is wanted. */
  _begin(): void {
    this._rejoins = 0;
    if (this._unloaded) this._load(this._unloaded);
  }

  /** Nothing that is on its way has an effect any more. */
  _cancel(): void {
    this._loads++;
    this._abort?.abort();
  }

  _onDisconnected(): void {
    const { position } = this._subscription;
    this._cancel();
    if (!this._options.loadState) this._held = this._held?.slice(0, this._find(position) + 1); // the others come again
    else {
      this._held = undefined;
      // Without history nobody can say what was missed.
      if (!position && !this._unloaded) this._unloaded = "gap";
    }
  }

  _onMessage(message: Message): void {
    if (!this._held) return this._sink._onMessage(message);
    if (this._held.length === MAX_HELD) {
      if (!this._options.loadState) return this._follow(0, message);
      this._heldTooMuch = true;
      this._held = [];
    }
    this._held.push(message);
    this._wake?.();
  }

  _onGap(): void {
    this._held = undefined;
    if (!this._options.loadState) return this._begin();
    if (!this._rejoins) return this._load("gap");
    // The gateway does not know the position of the state that was loaded: perhaps it knows that of a later one.
    this._cancel();
    this._held = [];
    this._unloaded = "gap";
    const load = this._loads;
    this._subscription._owner._retry(() => load === this._loads && this._load("gap"), this._rejoins - 1);
  }

  /** Whether messages reach the application here, and neither gaps nor a loaded state do. */
  _missesGaps(): boolean {
    return !this._options.loadState && this._sink._missesGaps();
  }

  /** Return the index of the held message *id*, or -1. */
  private _find(id: string | undefined): number {
    return this._held?.findIndex((message) => id && message.id === id) ?? -1;
  }

  /** Deliver what is held from *index* on, and everything after it. */
  private _follow(index: number, ...newer: Message[]): void {
    const messages = [...this._held!.slice(index), ...newer];
    this._cancel();
    this._held = this._unloaded = undefined;
    for (const message of messages) this._sink._onMessage(message);
    this._subscription._advance(this._subscription._received);
  }

  private _load(reason: LoadRequest["reason"], attempt = 0): void {
    this._cancel();
    const { _subscription: subscription, _loads: load } = this;
    const { channel, _owner: owner } = subscription;
    const { loadState, rewind } = this._options;
    if (loadState || !this._held) {
      this._held = [];
      this._heldTooMuch = false;
      this._before = subscription._received;
    }
    this._unloaded = reason;
    const position = this._before;
    if (subscription._holding) subscription.position = position;
    const current = () => load === this._loads;

    /** The handle has everything up to *at*; deliver what is after it. */
    const join = async (at: string | undefined): Promise<void> => {
      if (!current()) return;
      if (this._heldTooMuch) return this._load("gap");
      const index = this._find(at);
      if (!at || index >= 0 || at === position) return this._follow(index + 1);
      if (subscription._feeds.size === 1) {
        this._held = this._unloaded = undefined;
        this._rejoins++;
        return subscription._rejoin(at);
      }
      // Not among what arrived: what follows it is in the history or, if nothing is, still on its way here.
      const page = await owner._history(channel, { since: at });
      if (!page.length && current()) await new Promise<void>((resolve) => (this._wake = resolve));
      if (!current()) return;
      for (const message of page) this._sink._onMessage(message);
      return join(page[page.length - 1]?.id ?? at);
    };
    const begin = async () => {
      if (loadState) {
        const { signal } = (this._abort = new AbortController());
        return join((await loadState({ channel, reason, position, signal }))?.position);
      }
      // Those after `position` are held. If it is not in here, there are so many of them that no older one is wanted.
      const page = position ? (await owner._history(channel, { limit: rewind, reverse: true })).reverse() : [];
      if (!current()) return;
      for (const message of page.slice(0, page.findIndex(({ id }) => id === position) + 1)) this._sink._onMessage(message);
      return join(position);
    };
    begin().catch((error: FanwayError) => {
      if (!current()) return;
      owner._onError(error);
      if (loadState || error.retryable) owner._retry(() => current() && this._load(reason, attempt + 1), attempt);
      else void join(undefined);
    });
  }
}
