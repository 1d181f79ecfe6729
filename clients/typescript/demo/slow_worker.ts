/** A client that is too slow, in a worker: it blocks its thread for each message, so that the browser stops reading. */

import { Fanway } from "@fanway/client";
import { numberOf } from "./absence.js";

export interface SlowStart {
  url: string;
  channel: string;
  token: string | undefined;
  /** One Int32: whether to be slow. Shared, because a worker that is blocked receives no message about it. */
  isSlow: SharedArrayBuffer;
}

/** Milliseconds for which each message blocks the worker, while it is slow. */
export const BLOCKED_MS = 100;

/** What the worker tells the page. */
export interface SlowReport {
  /** Whether it was subscribed once: `last` is known. */
  ready: boolean;
  received: number;
  /** The number of the last message. */
  last: number;
  /** Messages that the gateway skipped, and the reasons that it gave. */
  skipped: number;
  reasons: string[];
  inOrder: boolean;
}

/** Milliseconds between two reports. */
const REPORT_MS = 100;

export function serveSlowClient(): void {
  onmessage = ({ data }: MessageEvent<SlowStart>) => listen(data);
}

function listen({ url, channel: name, token, isSlow }: SlowStart): void {
  const flag = new Int32Array(isSlow);
  const report: SlowReport = { ready: false, received: 0, last: 0, skipped: 0, reasons: [], inOrder: true };
  let reported = 0;
  const tell = () => {
    reported = performance.now();
    postMessage(report);
  };
  const fanway = new Fanway(url, { client: { name: "fanway-demo-slow" }, ...(token !== undefined && { getToken: () => token }) });
  const channel = fanway.channel(name);
  fanway.on("state", ({ state, code }) => {
    if (code !== undefined && state !== "stopped") report.reasons.push(`closed with ${code}`);
  });
  fanway.on("error", () => {}); // a reconnect follows, or the state says that it stopped
  channel.on("state", ({ state }) => {
    if (state !== "live" || report.ready) return;
    // The position is known when the reply to the subscription has been handled.
    queueMicrotask(() => Object.assign(report, { ready: true, last: numberOf(channel.position) }));
  });
  channel.on("gap", ({ reason }) => {
    const position = numberOf(channel.position);
    report.skipped += Math.max(0, position - report.last);
    report.last = position;
    report.reasons.push(reason);
    tell();
  });
  channel.on("message", ({ id }) => {
    const number = numberOf(id);
    report.inOrder &&= number === report.last + 1;
    report.received++;
    report.last = number;
    Atomics.wait(flag, 0, 1, BLOCKED_MS); // returns at once when the page sets it to 0
    if (performance.now() - reported >= REPORT_MS) tell();
  });
  // The last messages of a burst are reported by this.
  setInterval(tell, REPORT_MS);
}
