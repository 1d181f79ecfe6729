/** Messages a second: a number over the last seconds, and a bar for each second of the last minute. */

const SECONDS = 60;
const WINDOW = 5;
const [WIDTH, HEIGHT, GAP] = [240, 40, 1]; // of the drawing, in units of its viewBox

export class Rate {
    #bars = new Array(SECONDS).fill(0); // the newest last
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
        const passed = Math.min(SECONDS, now() - this.#second);
        if (passed <= 0) return;
        this.#second = now();
        this.#bars = [...this.#bars.slice(passed), ...new Array(passed).fill(0)];
    }

    #draw() {
        this.#advance();
        const { rate, total, peak, path } = this.#view;
        // The second under way is only partly there.
        const whole = this.#bars.slice(-1 - WINDOW, -1).reduce((sum, bar) => sum + bar, 0) / WINDOW;
        const most = Math.max(...this.#bars);
        rate.textContent = whole.toLocaleString(undefined, { maximumFractionDigits: whole < 10 ? 1 : 0 });
        total.textContent = this.#total.toLocaleString();
        peak.textContent = most.toLocaleString();
        path.setAttribute("d", this.#bars.map((bar, index) => outline(bar / Math.max(most, 1), index)).join(""));
    }
}

function outline(share, index) {
    const step = WIDTH / SECONDS;
    const height = share ? Math.max(2, share * HEIGHT) : 1;
    return `M${index * step} ${HEIGHT}v${-height}h${step - GAP}v${height}z`;
}

function now() {
    return Math.floor(performance.now() / 1000);
}
