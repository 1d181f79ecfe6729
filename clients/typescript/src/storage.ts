/**
 * Positions that survive a page reload:
 *
 *     const fanway = new Fanway(url, { positions: stored(sessionStorage) });
 */

import type { Positions } from "./subscriptions.js";

/** The part of the Web Storage API that is used. */
export interface StorageLike {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

export interface StoredOptions {
  /** The key in the storage; one for each client of the page. */
  key?: string;
  /** Milliseconds between two writes at least; what is newer is written when the page is left. 0 writes each time. */
  interval?: number;
}

/**
 * Return the option `positions` of a client, kept in *storage*.
 *
 * With `sessionStorage` each tab has its own. Take `localStorage` only if the tabs share what the messages change, and
 * one of them at a time has a client: each tab would write the positions of its own client, and the last one wins.
 */
export function stored(storage: StorageLike, { key = "fanway.positions", interval = 250 }: StoredOptions = {}): Positions {
  let newest: Record<string, string> | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let listening = false;
  const write = () => {
    if (newest) storage.setItem(key, JSON.stringify(newest));
    newest = undefined;
  };
  return {
    load: () => parsed(storage.getItem(key)),
    save(positions) {
      newest = positions;
      if (!listening) {
        listening = true;
        (globalThis as Partial<EventTarget>).addEventListener?.("pagehide", write);
      }
      if (timer !== undefined) return;
      write();
      if (!interval) return;
      timer = setTimeout(() => {
        timer = undefined;
        write();
      }, interval);
      (timer as { unref?: () => void }).unref?.(); // a Node process may end
    },
  };
}

/** Return the positions in *text*; none if it is of something else. */
function parsed(text: string | null): Record<string, string> {
  try {
    const entries = Object.entries(JSON.parse(text ?? "{}") as Record<string, unknown>);
    return Object.fromEntries(entries.filter((entry): entry is [string, string] => typeof entry[1] === "string"));
  } catch {
    return {};
  }
}
