/** The page: events of the client go to the views, input of the user goes to the client or the push API. */

import { Client } from "./client.js";
import { Feed } from "./feed.js";
import { People } from "./people.js";
import { Rate } from "./rate.js";

const REWIND = 50;
const PING_INTERVAL_MS = 2000;
const BURST_SIZE = 100;
const KEY = "dev";
const HEADERS = { Authorization: `Bearer ${KEY}`, "Content-Type": "application/json" };
const CHANNEL = /^([A-Za-z0-9_.:@~-]{1,128}|@([A-Za-z0-9_.:@~-]|%[0-9A-F]{2}){1,511})$/;
const MAX_UNSENT = 100; // messages that wait for a connection
const UNSENT = "fanway.unsent"; // where they outlive a reload of this page

const $ = (id) => document.getElementById(id);
const feed = new Feed($("scroller"), $("messages"), $("newest"));
const people = new People({ list: $("members"), count: $("present"), events: $("events") });
const rate = new Rate({ rate: $("rate"), total: $("total"), peak: $("peak"), path: $("bars") });
const api = (path) => new URL(path, location.origin + location.pathname).href;

let channel = "";
let resumed = false; // whether replayed messages were missed by this page, or are older than it
let client;

// ------------------------------------------------------------ the connection

const STATES = {
    connected: () => "Connected",
    connecting: () => "Connecting …",
    waiting: () => "No connection",
    closed: ({ code }) => (code === 1000 ? "Offline" : "Closed"),
};
const CLOSE_TEXTS = { 1000: "you went offline", 1006: "without a close frame", 4000: "the server shuts down" };

function showState({ detail }) {
    const { state, code, reason } = detail;
    document.body.dataset.state = state;
    $("state").textContent = STATES[state](detail);
    $("toggle").textContent = state === "closed" ? "Go online" : "Go offline";
    $("retry").hidden = state !== "waiting";
    showCountdown(state === "waiting" ? performance.now() + detail.delay : null);
    if (state === "connected") {
        people.self = client.session.connection;
        $("connection").textContent = client.session.connection;
        $("node").textContent = client.session.node;
        for (const id of ["sent", "pushed"]) if ($(id).classList.contains("failed")) showOutcome(id, "");
        measure();
        sendUnsent();
        return;
    }
    if (code !== undefined && $("connection").textContent !== "–") {
        const stopped = state === "closed" && code !== 1000 ? ": the server does not allow a reconnect" : "";
        feed.note("lost", `Connection ended (${CLOSE_TEXTS[code] ?? (reason || code)})${stopped}`);
    }
    $("connection").textContent = $("rtt").textContent = "–";
    people.markOutdated();
}

let countdown;

/** Show the seconds until `retryAt`, in ms of `performance.now()`; null: there is no retry. */
function showCountdown(retryAt) {
    clearInterval(countdown);
    const show = () => ($("countdown").textContent = `retry in ${Math.max(0, Math.ceil((retryAt - performance.now()) / 1000))} s`);
    if (retryAt === null) return ($("countdown").textContent = "");
    show();
    countdown = setInterval(show, 200);
}

function showOutcome(id, text, { failed = false } = {}) {
    $(id).textContent = text;
    $(id).classList.toggle("failed", failed);
}

const roundTrips = [];

async function measure() {
    if (client.state !== "connected" || document.hidden) return;
    const trip = await client.ping().catch(() => null);
    if (trip === null) return;
    roundTrips.push(trip);
    if (roundTrips.length > 20) roundTrips.shift();
    const sorted = [...roundTrips].sort((a, b) => a - b);
    $("rtt").textContent = trip.toFixed(1);
    $("median").textContent = sorted[Math.floor(sorted.length / 2)].toFixed(1);
}

// ------------------------------------------------------------ the channel

function showChannel() {
    const requested = location.hash.slice(1);
    const next = CHANNEL.test(requested) ? requested : "demo";
    if (next === channel) return;
    if (channel) client.unsubscribe(channel);
    channel = next;
    feed.clear();
    people.clear();
    $("channel").value = channel;
    $("another").href = `#${channel}`;
    document.title = `${channel} · Fanway`;
    showCurl();
    client.subscribe(channel, { rewind: REWIND, members: true, join_leave: true });
}

function subscribed({ detail }) {
    if (detail.channel !== channel) return;
    people.reset(detail.members);
    resumed = detail.resumed;
    if (!resumed) return feed.clear();
    const count = detail.messages.length;
    if (detail.recovered) feed.note("recovered", `Recovered ${count} ${count === 1 ? "message" : "messages"}, nothing lost`);
    else feed.note("gap", "Messages may be missing here: the server's history no longer has all of them");
}

const GAP_TEXTS = {
    overflow: "this page was too slow",
    trimmed: "the history no longer has them",
    reset: "the server lost its history",
};

const PUSHES = {
    message(message) {
        if (!message.replayed || resumed) rate.count();
        feed.message(message, people.self);
    },
    join: ({ member }) => people.join(member),
    leave: ({ member }) => people.leave(member),
    gap: ({ reason }) => feed.note("gap", `Messages are missing here: ${GAP_TEXTS[reason] ?? reason}`),
    unsubscribed: ({ reason, code }) => feed.note("gap", `No longer subscribed: ${reason || code}`),
};

// ------------------------------------------------------------ publishing

const messageData = () => ({ text: $("text").value.trim() || "hello" });

function publish(event) {
    event.preventDefault();
    if (!$("text").value.trim()) return $("text").focus();
    const message = { channel, data: messageData() };
    if (client.state !== "connected" && unsent.length >= MAX_UNSENT) {
        return showOutcome("sent", `Not sent: ${MAX_UNSENT} messages wait for the connection`, { failed: true });
    }
    $("text").value = "";
    showCurl();
    if (client.state === "connected") return send(message);
    unsent.push(message);
    showUnsent();
}

/** Publish; text that was not, or perhaps not, published goes back into the field, unless something else is typed there. */
async function send({ channel, data }) {
    try {
        await client.publish(channel, data);
        showOutcome("sent", "");
    } catch (error) {
        const outcome = error.code ? "Not sent" : "Perhaps not sent";
        showOutcome("sent", `${outcome}: ${error.message}: ${data.text}`, { failed: true });
        $("text").value ||= data.text;
        showCurl();
    }
}

const unsent = JSON.parse(sessionStorage.getItem(UNSENT) ?? "[]"); // messages that were typed without a connection

function showUnsent() {
    sessionStorage.setItem(UNSENT, JSON.stringify(unsent));
    const count = unsent.length;
    showOutcome("sent", count ? `${count} ${count === 1 ? "message is" : "messages are"} sent when the connection is back` : "");
}

function sendUnsent() {
    if (!unsent.length) return;
    const messages = unsent.splice(0);
    showUnsent();
    messages.forEach(send);
}

const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function showCurl() {
    const headers = Object.entries(HEADERS).map(([name, value]) => `-H ${shellQuoted(`${name}: ${value}`)}`);
    const body = shellQuoted(JSON.stringify({ channel, data: messageData() }));
    $("curl").textContent = [`curl ${api("v1/publish")}`, ...headers, `-d ${body}`].join(" \\\n  ");
}

async function push(path, body, describe) {
    const started = performance.now();
    try {
        const response = await fetch(api(path), { method: "POST", headers: HEADERS, body: JSON.stringify(body) });
        const answer = await response.json();
        const took = `${(performance.now() - started).toFixed(0)} ms`;
        const outcome = response.ok ? describe(answer, took) : `${response.status}: ${answer.error?.message}`;
        showOutcome("pushed", outcome, { failed: !response.ok });
    } catch (error) {
        showOutcome("pushed", `No answer: ${error.message}`, { failed: true });
    }
}

function pushOne() {
    push("v1/publish", { channel, data: messageData() }, ({ message }, took) => `Accepted in ${took} as ${message ?? "a message without id"}`);
}

function pushBurst() {
    const texts = Array.from({ length: BURST_SIZE }, (_, index) => `burst ${index + 1} of ${BURST_SIZE}`);
    const commands = texts.map((text) => ({ publish: { channel, data: { text } } }));
    push("v1/batch", { commands }, ({ results }, took) => {
        const rejected = results.filter((result) => result.error).length;
        return `${results.length - rejected} accepted in ${took}${rejected ? `, ${rejected} rejected` : ""}`;
    });
}

async function copyCurl() {
    const copied = await navigator.clipboard?.writeText($("curl").textContent).then(() => true, () => false);
    showOutcome("pushed", copied ? "Copied" : "The browser does not allow this page to copy: select the text", { failed: !copied });
}

async function suggestChannels() {
    const response = await fetch(api("v1/channels?limit=50"), { headers: HEADERS }).catch(() => null);
    const { channels } = response?.ok ? await response.json() : { channels: [] };
    $("channels").replaceChildren(...channels.map(({ channel: name, subscribers }) => new Option(`${subscribers} subscribers`, name)));
}

// ------------------------------------------------------------ wiring

async function start() {
    const { port } = await (await fetch(api("demo/where"))).json();
    const secure = location.protocol === "https:" ? "wss" : "ws";
    client = new Client(`${secure}://${location.hostname}:${port}/v1/ws`, { client: { name: "fanway-demo" } });
    client.addEventListener("state", showState);
    client.addEventListener("subscribed", subscribed);
    for (const [type, show] of Object.entries(PUSHES)) {
        client.addEventListener(type, ({ detail }) => detail.channel === channel && show(detail));
    }
    addEventListener("hashchange", showChannel);
    $("picker").addEventListener("submit", (event) => {
        event.preventDefault();
        location.hash = $("channel").value;
    });
    $("channel").addEventListener("focus", suggestChannels);
    $("toggle").addEventListener("click", () => (client.state === "closed" ? client.open() : client.close()));
    $("retry").addEventListener("click", () => client.open());
    $("composer").addEventListener("submit", publish);
    $("text").addEventListener("input", showCurl);
    $("run").addEventListener("click", pushOne);
    $("burst").addEventListener("click", pushBurst);
    $("copy").addEventListener("click", copyCurl);
    setInterval(measure, PING_INTERVAL_MS);
    showUnsent();
    showChannel();
    client.open();
}

start().catch((error) => ($("state").textContent = `Cannot start: ${error.message}`));
