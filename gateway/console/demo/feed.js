/** The list of messages: bounded, drawn once a frame however many arrive, and at its end unless someone scrolls back. */

import { label } from "./who.js";

const ROWS = 500;
const LONGEST = 2000; // characters of one message that are shown

export class Feed {
    #list;
    #scroller;
    #newest;
    #waiting = []; // rows of the next frame, as functions that make them
    #frame = 0;
    #following = true;

    /** `newest` is the button that jumps to the end; it shows while the end is out of sight. */
    constructor(scroller, list, newest) {
        this.#scroller = scroller;
        this.#list = list;
        this.#newest = newest;
        scroller.addEventListener("scroll", () => this.#follow(this.#atEnd()), { passive: true });
        newest.addEventListener("click", () => this.#toEnd());
        new ResizeObserver(() => this.#following && this.#toEnd()).observe(scroller);
    }

    message(message, self) {
        this.#add(() => messageRow(message, self));
    }

    /** Mark something between two messages: `kind` is "lost", "recovered" or "gap". */
    note(kind, text) {
        this.#add(() => noteRow(kind, text));
    }

    clear() {
        this.#waiting = [];
        this.#list.replaceChildren();
        this.#toEnd();
    }

    #add(row) {
        this.#waiting.push(row);
        // A tab in the background draws no frames, and must not hoard what it will never show.
        if (this.#waiting.length > 2 * ROWS) this.#waiting = this.#waiting.slice(-ROWS);
        this.#frame ||= requestAnimationFrame(() => this.#draw());
    }

    #draw() {
        this.#frame = 0;
        this.#list.append(...this.#waiting.slice(-ROWS).map((row) => row()));
        this.#waiting = [];
        while (this.#list.childElementCount > ROWS) this.#list.firstElementChild.remove();
        if (this.#following) this.#toEnd();
    }

    #atEnd() {
        const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
        return scrollHeight - scrollTop - clientHeight < 48;
    }

    #toEnd() {
        this.#scroller.scrollTop = this.#scroller.scrollHeight;
        this.#follow(true);
    }

    #follow(following) {
        this.#following = following;
        this.#newest.hidden = following;
    }
}

function messageRow({ data, from, message, tags, time }, self) {
    const row = element("li", from?.connection === self && from ? "message own" : "message");
    const at = element("time", "", clock(time));
    if (time) at.dateTime = new Date(time).toISOString();
    row.append(at, label(element("span", "from"), from, self), body(data), element("code", "id", message ?? "–"));
    for (const [key, value] of Object.entries(tags ?? {})) {
        row.querySelector(".data").append(element("span", "tag", `${key}: ${value}`));
    }
    return row;
}

/** Show what is only a text as text, everything else as JSON. */
function body(data) {
    const plain = typeof data === "string" ? data : lone(data);
    const text = plain ?? JSON.stringify(data);
    const rest = text.length - LONGEST;
    const shown = rest > 0 ? `${text.slice(0, LONGEST)} … (${rest.toLocaleString()} more characters)` : text;
    return element("span", plain === null ? "data json" : "data", shown);
}

function lone(data) {
    const only = data !== null && typeof data === "object" && Object.keys(data).join() === "text";
    return only && typeof data.text === "string" ? data.text : null;
}

function noteRow(kind, text) {
    const row = element("li", `note ${kind}`);
    row.append(element("span", "", text));
    return row;
}

function clock(time) {
    if (!time) return "–";
    const at = new Date(time);
    const two = (number) => String(number).padStart(2, "0");
    const [seconds, ms] = [two(at.getSeconds()), String(at.getMilliseconds()).padStart(3, "0")];
    return `${two(at.getHours())}:${two(at.getMinutes())}:${seconds}.${ms}`;
}

function element(name, className, text = "") {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.textContent = text;
    return made;
}
