/** The page: what the client reports goes to the views, what the forms ask for goes to the client or the push API. */

import { Client } from "./client.js";
import { Feed } from "./feed.js";
import { People } from "./people.js";
import { Rate } from "./rate.js";

const REWIND = 50;
const PING_EVERY = 2000;
const BURST = 100;
const KEY = "dev";
const HEADERS = { Authorization: `Bearer ${KEY}`, "Content-Type": "application/json" };
const CHANNEL = /^[A-Za-z0-9_.:@~-]{1,128}$/;

const $ = (id) => document.getElementById(id);
const feed = new Feed($("scroller"), $("messages"), $("newest"));
const people = new People({ list: $("members"), count: $("present"), news: $("news") });
const rate = new Rate({ rate: $("rate"), total: $("total"), peak: $("peak"), path: $("bars") });
const api = (path) => new URL(path, location.origin + location.pathname).href;

let channel = "";
let catchingUp = false; // whether what is replayed was missed, and is not from before this page
let client;

// ------------------------------------------------------------ the connection

const STATES = {
    connected: () => "Connected",
    connecting: () => "Connecting …",
    waiting: ({ wait }) => `Retry in ${(wait / 1000).toFixed(1)} s`,
    closed: ({ code }) => (code === 1000 ? "Offline" : "Closed"),
};
const ENDS = { 1000: "you went offline", 1006: "without a goodbye", 4000: "the server shuts down" };

function showState({ detail }) {
    const { state, code, reason } = detail;
    document.body.dataset.state = state;
    $("state").textContent = STATES[state](detail);
    $("toggle").textContent = state === "closed" ? "Go online" : "Go offline";
    if (state === "connected") {
        people.self = client.session.connection;
        $("connection").textContent = client.session.connection;
        $("node").textContent = client.session.node;
        measure();
        return;
    }
    if (code !== undefined && $("connection").textContent !== "–") {
        const stopped = state === "closed" && code !== 1000 ? ": the server says not to come back" : "";
        feed.note("lost", `Connection ended (${ENDS[code] ?? (reason || code)})${stopped}`);
    }
    $("connection").textContent = $("rtt").textContent = "–";
    people.doubt();
}

const trips = [];

async function measure() {
    if (client.state !== "connected" || document.hidden) return;
    const trip = await client.ping().catch(() => null);
    if (trip === null) return;
    trips.push(trip);
    if (trips.length > 20) trips.shift();
    const sorted = [...trips].sort((a, b) => a - b);
    $("rtt").textContent = trip.toFixed(1);
    $("median").textContent = sorted[Math.floor(sorted.length / 2)].toFixed(1);
}

// ------------------------------------------------------------ the channel

function follow() {
    const asked = location.hash.slice(1);
    const next = CHANNEL.test(asked) ? asked : "demo";
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
    catchingUp = detail.resumed;
    if (!catchingUp) return feed.clear();
    const count = detail.messages.length;
    if (detail.recovered) feed.note("recovered", `Recovered ${count} ${count === 1 ? "message" : "messages"}, nothing lost`);
    else feed.note("gap", "Messages may be missing here: the server's history does not reach back to the last one");
}

const GAPS = {
    overflow: "this page was too slow",
    trimmed: "the history no longer reaches back",
    reset: "the server lost its history",
};

const PUSHES = {
    message(message) {
        if (!message.replayed || catchingUp) rate.count();
        feed.message(message, people.self);
    },
    join: ({ member }) => people.join(member),
    leave: ({ member }) => people.leave(member),
    gap: ({ reason }) => feed.note("gap", `Messages are missing here: ${GAPS[reason] ?? reason}`),
    unsubscribed: ({ reason, code }) => feed.note("gap", `No longer subscribed: ${reason || code}`),
};

// ------------------------------------------------------------ publishing

const typed = () => ({ text: $("text").value.trim() || "hello" });

async function publish(event) {
    event.preventDefault();
    if (!$("text").value.trim()) return $("text").focus();
    const data = typed();
    try {
        await client.publish(channel, data);
        $("sent").textContent = "";
        $("text").value = "";
        showCurl();
    } catch (error) {
        $("sent").textContent = `Not sent: ${error.message}`;
    }
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function showCurl() {
    const headers = Object.entries(HEADERS).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`);
    const body = quoted(JSON.stringify({ channel, data: typed() }));
    $("curl").textContent = [`curl ${api("v1/publish")}`, ...headers, `-d ${body}`].join(" \\\n  ");
}

async function push(path, body, done) {
    const began = performance.now();
    try {
        const response = await fetch(api(path), { method: "POST", headers: HEADERS, body: JSON.stringify(body) });
        const answer = await response.json();
        const took = `${(performance.now() - began).toFixed(0)} ms`;
        $("pushed").textContent = response.ok ? done(answer, took) : `${response.status}: ${answer.error?.message}`;
    } catch (error) {
        $("pushed").textContent = `No answer: ${error.message}`;
    }
}

function pushOne() {
    push("v1/publish", { channel, data: typed() }, ({ message }, took) => `Accepted in ${took} as ${message ?? "a message without id"}`);
}

function pushBurst() {
    const texts = Array.from({ length: BURST }, (_, index) => `burst ${index + 1} of ${BURST}`);
    const commands = texts.map((text) => ({ publish: { channel, data: { text } } }));
    push("v1/batch", { commands }, ({ results }, took) => {
        const refused = results.filter((result) => result.error).length;
        return `${results.length - refused} accepted in ${took}${refused ? `, ${refused} refused` : ""}`;
    });
}

async function copyCurl() {
    const copied = await navigator.clipboard?.writeText($("curl").textContent).then(() => true, () => false);
    $("pushed").textContent = copied ? "Copied" : "The browser does not let this page copy: select the text";
}

async function suggestChannels() {
    const response = await fetch(api("v1/channels?limit=50"), { headers: HEADERS }).catch(() => null);
    const { channels } = response?.ok ? await response.json() : { channels: [] };
    $("channels").replaceChildren(...channels.map(({ channel: name, subscribers }) => new Option(`${subscribers} here`, name)));
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
    addEventListener("hashchange", follow);
    $("picker").addEventListener("submit", (event) => {
        event.preventDefault();
        location.hash = $("channel").value;
    });
    $("channel").addEventListener("focus", suggestChannels);
    $("toggle").addEventListener("click", () => (client.state === "closed" ? client.open() : client.close()));
    $("composer").addEventListener("submit", publish);
    $("text").addEventListener("input", showCurl);
    $("run").addEventListener("click", pushOne);
    $("burst").addEventListener("click", pushBurst);
    $("copy").addEventListener("click", copyCurl);
    setInterval(measure, PING_EVERY);
    follow();
    client.open();
}

start().catch((error) => ($("state").textContent = `Cannot start: ${error.message}`));
