/** Messages per second: the average of the last seconds, and a bar for each second of the last minute. */

const SECONDS = 60;
const AVERAGE_SECONDS = 5;
const [WIDTH, HEIGHT, GAP] = [240, 40, 1]; // in units of the viewBox

export class Rate {
    #bars = new Array(SECONDS).fill(0); // counts by second, the newest last
    #second = now();
    #total = 0;
    #view;

    /** `view` has the elements `rate`, `total`, `peak`, and the `path` of the sparkline. */
    constructor(view) {
        this.#view = view;
        setInterval(() => this.#draw(), 500);
        this.#draw();
    }

    count() {
        this.#advance();
        this.#bars[SECONDS - 1] += 1;
        this.#total += 1;
    }

    #advance() {
        const elapsed = Math.min(SECONDS, now() - this.#second);
        if (elapsed <= 0) return;
        this.#second = now();
        this.#bars = [...this.#bars.slice(elapsed), ...new Array(elapsed).fill(0)];
    }

    #draw() {
        this.#advance();
        const { rate, total, peak, path } = this.#view;
        // The current second is incomplete, and left out of the average.
        const average = this.#bars.slice(-1 - AVERAGE_SECONDS, -1).reduce((sum, bar) => sum + bar, 0) / AVERAGE_SECONDS;
        const max = Math.max(...this.#bars);
        rate.textContent = average.toLocaleString(undefined, { maximumFractionDigits: average < 10 ? 1 : 0 });
        total.textContent = this.#total.toLocaleString();
        peak.textContent = max.toLocaleString();
        path.setAttribute("d", this.#bars.map((bar, index) => barOutline(bar / Math.max(max, 1), index)).join(""));
    }
}

function barOutline(share, index) {
    const step = WIDTH / SECONDS;
    const height = share ? Math.max(2, share * HEIGHT) : 1;
    return `M${index * step} ${HEIGHT}v${-height}h${step - GAP}v${height}z`;
}

function now() {
    return Math.floor(performance.now() / 1000);
}
