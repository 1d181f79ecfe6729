/** How people are called and coloured, the same everywhere on the page. */

/** Return the name of a sender or member ({connection, user}, or undefined for the push API) and a longer title. */
export function nameOf(who, self) {
    if (!who) return ["push API", "published over HTTP"];
    const name = who.user || who.connection.slice(0, 6);
    return [who.connection === self ? `${name} (you)` : name, `connection ${who.connection}`];
}

/** Fill *element* with a coloured dot and the name. */
export function label(element, who, self) {
    const [name, title] = nameOf(who, self);
    const dot = document.createElement("i");
    dot.className = who ? "dot" : "dot server";
    dot.style.setProperty("--hue", hue(who?.user || who?.connection || ""));
    element.title = title;
    element.replaceChildren(dot, name);
    return element;
}

function hue(text) {
    let hash = 0;
    for (const letter of text) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
    return hash % 360;
}
