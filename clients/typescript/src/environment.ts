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

type Target = Partial<Pick<EventTarget, "addEventListener" | "removeEventListener">>;

const scope = globalThis as { document?: Target & { visibilityState?: string }; navigator?: { onLine?: boolean } } & Target;

/** What happened, or undefined if it does not matter. */
const PAGE_EVENTS: Readonly<Record<string, (event: PageTransitionEvent) => PageEvent | false | undefined>> = {
  online: () => "online",
  offline: () => "offline",
  pageshow: ({ persisted }) => persisted && "wake",
  pagehide: ({ persisted }) => persisted && "hide",
  visibilitychange: () => scope.document?.visibilityState === "visible" && "wake",
  resume: () => "wake",
};

/** Those that the document has; the others are the window's. Outside of browsers nothing is listened to. */
const DOCUMENT_EVENTS = ["visibilitychange", "resume"];

export const browser: Environment = {
  now: () => Date.now(),
  random: () => Math.random(),
  key: () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(36)).join(""),
  setTimer: (callback, ms) => setTimeout(callback, ms),
  clearTimer: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
  online: () => scope.navigator?.onLine ?? true,
  listen(onEvent) {
    const listener = (event: Event) => {
      const translated = PAGE_EVENTS[event.type]!(event as PageTransitionEvent);
      if (translated) onEvent(translated);
    };
    const each = (change: "addEventListener" | "removeEventListener") => {
      for (const name in PAGE_EVENTS) (DOCUMENT_EVENTS.includes(name) ? scope.document : scope)?.[change]?.(name, listener);
    };
    each("addEventListener");
    return () => each("removeEventListener");
  },
};
