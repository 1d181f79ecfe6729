/** Messages in the last second, the most in a second of the last minute, and a bar for each second of that minute. */

const SECONDS = 60;
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
        const max = Math.max(...this.#bars);
        // Rate and peak are of complete seconds, so that the peak is the largest rate that was shown.
        const complete = this.#bars.slice(0, -1);
        rate.textContent = complete.at(-1).toLocaleString();
        total.textContent = this.#total.toLocaleString();
        peak.textContent = Math.max(...complete).toLocaleString();
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
