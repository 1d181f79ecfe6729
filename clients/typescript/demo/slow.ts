/** The page's side of the slow client: the switch, and what it shows. */

import { fetchToken } from "./backend.js";
import { counted } from "./dom.js";
import { BLOCKED_MS, type SlowReport, type SlowStart } from "./slow_worker.js";

export interface SlowView {
  /** The switch: `aria-checked`. */
  toggle: HTMLElement;
  outcome: HTMLElement;
  received: HTMLElement;
  behind: HTMLElement;
  skipped: HTMLElement;
}

export interface SlowOptions {
  url: string;
  user: string;
  channel(): string;
  /** The number of the newest message that this page has. */
  newest(): number;
}

export class SlowClient {
  private _worker: Worker | undefined;
  private _slow = false;
  /** Shared memory needs the headers COOP and COEP, which the gateway sends with this page. */
  private readonly _flag = new Int32Array(new SharedArrayBuffer(4));
  private _report: SlowReport | undefined;

  constructor(
    private readonly _view: SlowView,
    private readonly _options: SlowOptions,
  ) {
    _view.toggle.addEventListener("click", () => void this._switch());
  }

  /** End it: the page shows another room. */
  stop(): void {
    this._worker?.terminate();
    this._worker = this._report = undefined;
    this._setSlow(false);
    this._view.outcome.textContent = "";
    for (const figure of [this._view.received, this._view.behind, this._view.skipped]) figure.textContent = "–";
  }

  private async _switch(): Promise<void> {
    this._setSlow(!this._slow);
    if (this._worker) return;
    const { url, user, channel } = this._options;
    const worker = (this._worker = new Worker(import.meta.url, { type: "module" }));
    worker.onmessage = ({ data }: MessageEvent<SlowReport>) => {
      this._report = data;
      this._show();
    };
    const token = await fetchToken(`${user.slice(0, 120)}, slow`);
    worker.postMessage({ url, channel: channel(), token, isSlow: this._flag.buffer } satisfies SlowStart);
  }

  private _setSlow(slow: boolean): void {
    this._slow = slow;
    Atomics.store(this._flag, 0, Number(slow));
    Atomics.notify(this._flag, 0);
    this._view.toggle.setAttribute("aria-checked", String(slow));
  }

  private _show(): void {
    const { ready, received, last, skipped, reasons, inOrder } = this._report!;
    if (!ready) return;
    const behind = Math.max(0, this._options.newest() - last);
    this._view.received.textContent = received.toLocaleString("en");
    this._view.behind.textContent = behind.toLocaleString("en");
    this._view.skipped.textContent = skipped.toLocaleString("en");
    // No counts that change with each message: screen readers announce this.
    const told = skipped ? `The gateway skipped messages for it and said so (${[...new Set(reasons)].join(", ")}): a room of dev mode keeps 100. ` : "";
    const now = this._slow
      ? `It reads ${1000 / BLOCKED_MS} messages a second at most, and this window does not wait for it.`
      : behind
        ? "It reads at full speed again and catches up."
        : `It has caught up: ${inOrder ? "in order" : "out of order"}, ${counted(skipped)} lost.`;
    if (this._view.outcome.textContent !== told + now) this._view.outcome.textContent = told + now;
  }
}
