/** What the client takes from its platform: time, chance, and the events of a page. Tests inject their own. */

/**
 * - `online`, `offline`: the network is back, or gone.
 * - `wake`: the page is visible again, was resumed, or the machine has slept.
 * - `hide`: the page goes into the back/forward cache, where a socket may not stay open; `wake` follows.
 */
export type PageEvent = "online" | "offline" | "wake" | "hide";

export interface Environment {
  /** Milliseconds; goes on while the machine sleeps. */
  now(): number;
  /** A number in [0, 1), for the jitter. */
  random(): number;
  /** A random string, for the key of a publish. */
  key(): string;
  setTimer(callback: () => void, ms: number): unknown;
  clearTimer(timer: unknown): void;
  /** Whether the platform believes that it has a network. */
  online(): boolean;
  /** Call *onEvent* for the events of the page; return a function that ends it. */
  listen(onEvent: (event: PageEvent) => void): () => void;
}

type Target = Pick<EventTarget, "addEventListener" | "removeEventListener">;

const scope = globalThis as { document?: Target & { visibilityState?: string }; navigator?: { onLine?: boolean } } & Partial<Target>;

/** The events of browsers; elsewhere (Node, React Native) nothing is listened to. */
const PAGE_EVENTS: readonly (readonly [() => Target | undefined, string, (event: Event) => PageEvent | undefined])[] = [
  [window, "online", () => "online"],
  [window, "offline", () => "offline"],
  [window, "pageshow", (event) => ((event as PageTransitionEvent).persisted ? "wake" : undefined)],
  [window, "pagehide", (event) => ((event as PageTransitionEvent).persisted ? "hide" : undefined)],
  [document, "visibilitychange", () => (scope.document?.visibilityState === "visible" ? "wake" : undefined)],
  [document, "resume", () => "wake"],
];

function window(): Target | undefined {
  return scope.addEventListener ? (scope as Target) : undefined;
}

function document(): Target | undefined {
  return scope.document?.addEventListener ? scope.document : undefined;
}

export const browser: Environment = {
  now: () => Date.now(),
  random: () => Math.random(),
  key: () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(36)).join(""),
  setTimer: (callback, ms) => setTimeout(callback, ms),
  clearTimer: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
  online: () => scope.navigator?.onLine ?? true,
  listen(onEvent) {
    const listeners = PAGE_EVENTS.flatMap(([target, name, translate]) => {
      const on = target();
      if (!on) return [];
      const listener = (event: Event) => {
        const translated = translate(event);
        if (translated) onEvent(translated);
      };
      on.addEventListener(name, listener);
      return [() => on.removeEventListener(name, listener)];
    });
    return () => listeners.forEach((remove) => remove());
  },
};
