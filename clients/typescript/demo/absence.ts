/** What became of the messages that were published while a client was away. No DOM, no time: it is tested directly. */

export interface Verdict {
  missed: number;
  recovered: number;
  lost: number;
  inOrder: boolean;
  /** Whether the gateway began a new history, so that nobody knows what was missed. */
  reset: boolean;
}

/**
 * The number in a message id ("17-Qe41xT"), or in a position. Ids are opaque to applications; this page looks inside, to
 * show that the numbers have no hole.
 */
export const numberOf = (id: string | undefined): number => (id === undefined ? 0 : Number.parseInt(id, 10));

/** From the end of a connection until each message of the meantime has arrived, or is known to be lost. */
export class Absence {
  private readonly _arrived: number[] = [];
  private _last: number;
  private _newest: number | undefined;
  private _inOrder = true;
  private _reset = false;

  /** *before* is the number of the last message that had arrived. */
  constructor(private readonly _before: number) {
    this._last = _before;
  }

  /** A message has arrived since then. */
  add(number: number): void {
    this._inOrder &&= number > this._last;
    this._arrived.push(number);
    this._last = Math.max(this._last, number);
  }

  /** The gateway said that messages up to *position* will not come. */
  skip(position: number): void {
    // A smaller number is of another history: the gateway has lost the one before.
    this._reset ||= position < this._before;
    this._last = this._reset ? position : Math.max(this._last, position);
  }

  /** The client is subscribed again, and the newest message has this number. */
  returned(newest: number): void {
    this._newest = newest;
  }

  /** Return the counts as soon as they are final. */
  verdict(): Verdict | undefined {
    if (this._newest === undefined || this._last < this._newest) return undefined;
    const missed = Math.max(0, this._newest - this._before);
    const recovered = new Set(this._arrived.filter((number) => number > this._before && number <= this._newest!)).size;
    return { missed, recovered, lost: missed - recovered, inOrder: this._inOrder, reset: this._reset };
  }
}

/** "12 missed, 12 recovered, in order, 0 lost". */
export function describe({ missed, recovered, lost, inOrder, reset }: Verdict): string {
  if (reset) return "the gateway lost the room's history: nobody knows what was missed";
  return `${missed} missed, ${recovered} recovered, ${inOrder ? "in order" : "out of order"}, ${lost} lost`;
}
