/** Publishes a number of messages a second over HTTP, as a backend would. */

import { publishBatch } from "./backend.js";
import { now } from "./views/latency.js";

const TICK_MS = 50;
/** Publishes of one request: the push API takes no more. */
const MAX_BATCH = 1_000;

/** The data of a message of the load. */
export interface LoadData {
  load: number;
  /** Which window published it, and when, in milliseconds of its clock. */
  page: string;
  sent: number;
  pad?: string;
}

export const isLoad = (data: unknown): data is LoadData => typeof data === "object" && data !== null && "load" in data && "sent" in data;

export interface LoadOptions {
  channel: string;
  /** Messages a second. */
  rate: number;
  /** Bytes that are added to each message. */
  size?: number;
}

export class Load {
  readonly page = Math.random().toString(36).slice(2, 8);
  /** Messages that may still be published; a cut sets it. */
  budget = Infinity;
  private _options: LoadOptions | undefined;
  private _timer: ReturnType<typeof setInterval> | undefined;
  private _last = 0;
  private _due = 0;
  private _number = 0;
  private _busy = false;

  constructor(private readonly _onError: (error: Error) => void) {}

  /** The number of the last message that was published. */
  get number(): number {
    return this._number;
  }

  get running(): boolean {
    return this._options !== undefined;
  }

  start(options: LoadOptions): void {
    this.stop();
    this._options = options;
    this._last = performance.now();
    this._due = 0;
    this._timer = setInterval(() => void this._tick(), TICK_MS);
  }

  stop(): void {
    clearInterval(this._timer);
    this._options = undefined;
  }

  /** Publish what is due. One request at a time: a gateway that is slow to answer gets less. */
  private async _tick(): Promise<void> {
    const { channel, rate, size = 0 } = this._options!;
    const time = performance.now();
    this._due = Math.min(this._due + ((time - this._last) / 1000) * rate, rate);
    this._last = time;
    const count = Math.min(Math.floor(this._due), MAX_BATCH, this.budget);
    if (this._busy || count < 1) return;
    this._due -= count;
    this.budget -= count;
    const sent = now();
    const pad = size && { pad: "x".repeat(size) };
    const publishes = Array.from({ length: count }, () => ({ channel, data: { load: ++this._number, page: this.page, sent, ...pad } }));
    this._busy = true;
    try {
      await publishBatch(publishes);
    } catch (error) {
      this._onError(error as Error);
    } finally {
      this._busy = false;
    }
  }
}
