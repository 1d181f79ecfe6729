/** Messages in the last second, the most in a second of the last minute, and a bar for each second of that minute. */

const SECONDS = 60;
/** In units of the viewBox. */
const [WIDTH, HEIGHT, GAP] = [240, 40, 1];

type Text = { textContent: string | null };

export interface RateView {
  rate: Text;
  total: Text;
  peak: Text;
  /** The `path` of the bars. */
  path: { setAttribute(name: string, value: string): void };
}

export class Rate {
  /** Counts by second, the newest last. */
  private _bars: number[] = new Array(SECONDS).fill(0);
  private _second = second();
  private _total = 0;

  constructor(private readonly _view: RateView) {
    setInterval(() => this._draw(), 500);
    this._draw();
  }

  count(): void {
    this._advance();
    this._bars[SECONDS - 1]! += 1;
    this._total += 1;
  }

  private _advance(): void {
    const elapsed = Math.min(SECONDS, second() - this._second);
    if (elapsed <= 0) return;
    this._second = second();
    this._bars = [...this._bars.slice(elapsed), ...new Array<number>(elapsed).fill(0)];
  }

  private _draw(): void {
    this._advance();
    const { rate, total, peak, path } = this._view;
    const max = Math.max(...this._bars);
    // Rate and peak are of complete seconds, so that the peak is the largest rate that was shown.
    const complete = this._bars.slice(0, -1);
    rate.textContent = complete.at(-1)!.toLocaleString("en");
    total.textContent = this._total.toLocaleString("en");
    peak.textContent = Math.max(...complete).toLocaleString("en");
    path.setAttribute("d", this._bars.map((bar, index) => barOutline(bar / Math.max(max, 1), index)).join(""));
  }
}

function barOutline(share: number, index: number): string {
  const step = WIDTH / SECONDS;
  const height = share ? Math.max(2, share * HEIGHT) : 1;
  return `M${index * step} ${HEIGHT}v${-height}h${step - GAP}v${height}z`;
}

function second(): number {
  return Math.floor(performance.now() / 1000);
}
