/** Listeners by event; one that throws is reported and hurts no other. */

export type Listener = (event: any) => void;

export class Emitter {
  private readonly _listeners = new Map<string, Set<Listener>>();

  constructor(private readonly _onThrow: (error: unknown) => void) {}

  on(event: string, listener: Listener): () => void {
    // Wrapped, so that a function that was added twice is called twice and removed once.
    const entry: Listener = (value) => listener(value);
    const entries = this._listeners.get(event) ?? new Set();
    this._listeners.set(event, entries.add(entry));
    return () => {
      entries.delete(entry);
    };
  }

  emit(event: string, value: unknown): void {
    for (const listener of [...(this._listeners.get(event) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        this._onThrow(error);
      }
    }
  }

  clear(): void {
    this._listeners.clear();
  }

  has(event: string): boolean {
    return (this._listeners.get(event)?.size ?? 0) > 0;
  }
}
