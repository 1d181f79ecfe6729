/** Names and colours of members and senders, the same everywhere on the page. */

/** Return the name of a sender or member ({connection, user}; undefined for the push API), and a longer title. */
export function nameOf(member, self) {
    if (!member) return ["push API", "published over HTTP"];
    const name = member.user || member.connection.slice(0, 6);
    return [member.connection === self ? `${name} (you)` : name, `connection ${member.connection}`];
}

/** Fill `element` with a coloured dot and the name. */
export function label(element, member, self) {
    const [name, title] = nameOf(member, self);
    const dot = document.createElement("i");
    dot.className = member ? "dot" : "dot server";
    dot.style.setProperty("--hue", hue(member?.user || member?.connection || ""));
    element.title = title;
    element.replaceChildren(dot, name);
    return element;
}

function hue(text) {
    let hash = 0;
    for (const letter of text) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
    return hash % 360;
}
