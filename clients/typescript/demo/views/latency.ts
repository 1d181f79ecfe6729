/** Publish to delivery, in milliseconds: a dot for each message of the last half minute, the median and the 99th percentile. */

import { THEME_CHANGE } from "./theme.js";

const SPAN_MS = 30_000;
const MAX_DOTS = 4_000;
/** Milliseconds at the top of the plot, the first that holds all. */
const SCALES = [5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];
const REDRAW_MS = 250;

/** Milliseconds of a clock that all windows of this machine share. */
export const now = (): number => performance.timeOrigin + performance.now();

export interface LatencyView {
  canvas: HTMLCanvasElement;
  median: HTMLElement;
  p99: HTMLElement;
  /** What the top of the plot means. */
  top: HTMLElement;
}

export class Latency {
  private _dots: { at: number; ms: number }[] = [];
  /** When there was no connection; an open one has no end. */
  private _absences: { from: number; to: number }[] = [];

  constructor(private readonly _view: LatencyView) {
    setInterval(() => document.hidden || this._draw(), REDRAW_MS);
    addEventListener(THEME_CHANGE, () => this._draw());
  }

  /** A message arrived that was published at *sent*. */
  add(sent: number): void {
    const at = now();
    this._dots.push({ at, ms: Math.max(0, at - sent) });
    if (this._dots.length > MAX_DOTS) this._dots = this._dots.slice(-MAX_DOTS / 2);
  }

  /** Mark the time without a connection. */
  away(isAway: boolean): void {
    const open = this._absences.find(({ to }) => to === Infinity);
    if (isAway && !open) this._absences.push({ from: now(), to: Infinity });
    if (!isAway && open) open.to = now();
  }

  private _draw(): void {
    const from = now() - SPAN_MS;
    this._dots = this._dots.filter(({ at }) => at >= from);
    this._absences = this._absences.filter(({ to }) => to >= from);
    const sorted = this._dots.map(({ ms }) => ms).sort((a, b) => a - b);
    const { canvas, median, p99, top } = this._view;
    const share = (part: number) => (sorted.length ? sorted[Math.floor((sorted.length - 1) * part)]!.toFixed(1) : "–");
    const highest = sorted.at(-1) ?? 0;
    const scale = SCALES.find((each) => each >= highest) ?? highest;
    median.textContent = share(0.5);
    p99.textContent = share(0.99);
    top.textContent = `${scale} ms`;
    canvas.setAttribute("aria-label", `Latency of the last 30 seconds: median ${share(0.5)} ms, 99th percentile ${share(0.99)} ms, of ${sorted.length} messages`);
    this._paint(from, scale);
  }

  private _paint(from: number, scale: number): void {
    const { canvas } = this._view;
    const { clientWidth, clientHeight } = canvas;
    const context = canvas.getContext("2d")!;
    canvas.width = clientWidth * devicePixelRatio;
    canvas.height = clientHeight * devicePixelRatio;
    context.scale(devicePixelRatio, devicePixelRatio);
    const style = getComputedStyle(canvas);
    const x = (at: number) => ((Math.min(at, from + SPAN_MS) - from) / SPAN_MS) * clientWidth;
    const y = (ms: number) => clientHeight - 3 - Math.min(1, ms / scale) * (clientHeight - 6);
    context.fillStyle = style.outlineColor;
    for (const { from: start, to } of this._absences) context.fillRect(x(Math.max(start, from)), 0, Math.max(1, x(to) - x(Math.max(start, from))), clientHeight);
    context.fillStyle = style.color;
    context.globalAlpha = this._dots.length > 400 ? 0.35 : 0.8;
    for (const { at, ms } of this._dots) {
      context.beginPath();
      context.arc(x(at), y(ms), 1.75, 0, 7);
      context.fill();
    }
  }
}
