/** The list of messages: bounded, rendered once per animation frame, and scrolled to its end unless the user scrolls back. */

import { label } from "./labels.js";

const MAX_ROWS = 500;
const MAX_TEXT_LENGTH = 2000; // characters of one message that are shown

export class Feed {
    #list;
    #scroller;
    #newest;
    #pending = []; // functions that create the rows of the next frame
    #frame = 0;
    #atNewest = true; // whether the end stays in view

    /** `newest` is the button that scrolls to the end; it is visible while the end is out of view. */
    constructor(scroller, list, newest) {
        this.#scroller = scroller;
        this.#list = list;
        this.#newest = newest;
        scroller.addEventListener("scroll", () => this.#setAtNewest(this.#atEnd()), { passive: true });
        newest.addEventListener("click", () => this.#scrollToEnd());
        new ResizeObserver(() => this.#atNewest && this.#scrollToEnd()).observe(scroller);
    }

    message(message, self) {
        this.#add(() => messageRow(message, self));
    }

    /** Add a note between two messages; `kind` is "lost", "recovered" or "gap". */
    note(kind, text) {
        this.#add(() => noteRow(kind, text));
    }

    clear() {
        this.#pending = [];
        this.#list.replaceChildren();
        this.#scrollToEnd();
    }

    #add(row) {
        this.#pending.push(row);
        // A background tab renders no frames: keep only the rows that it can still show.
        if (this.#pending.length > 2 * MAX_ROWS) this.#pending = this.#pending.slice(-MAX_ROWS);
        this.#frame ||= requestAnimationFrame(() => this.#draw());
    }

    #draw() {
        this.#frame = 0;
        this.#list.append(...this.#pending.slice(-MAX_ROWS).map((row) => row()));
        this.#pending = [];
        while (this.#list.childElementCount > MAX_ROWS) this.#list.firstElementChild.remove();
        if (this.#atNewest) this.#scrollToEnd();
    }

    #atEnd() {
        const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
        return scrollHeight - scrollTop - clientHeight < 48;
    }

    #scrollToEnd() {
        this.#scroller.scrollTop = this.#scroller.scrollHeight;
        this.#setAtNewest(true);
    }

    #setAtNewest(atNewest) {
        this.#atNewest = atNewest;
        this.#newest.hidden = atNewest;
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

/** Show a string, or an object with nothing but a `text`, as text; everything else as JSON. */
function body(data) {
    const plain = typeof data === "string" ? data : onlyText(data);
    const text = plain ?? JSON.stringify(data);
    const rest = text.length - MAX_TEXT_LENGTH;
    const shown = rest > 0 ? `${text.slice(0, MAX_TEXT_LENGTH)} … (${rest.toLocaleString()} more characters)` : text;
    return element("span", plain === null ? "data json" : "data", shown);
}

function onlyText(data) {
    const hasOnlyText = data !== null && typeof data === "object" && Object.keys(data).join() === "text";
    return hasOnlyText && typeof data.text === "string" ? data.text : null;
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
