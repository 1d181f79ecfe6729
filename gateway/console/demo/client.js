/**
 * A client of Fanway that stays connected: `fanway.v1.json`, one WebSocket at a time, every channel resumed.
 *
 *     const client = new Client("ws://127.0.0.1:8000/v1/ws");
 *     client.addEventListener("message", ({ detail }) => console.log(detail.channel, detail.data));
 *     client.subscribe("news");
 *     client.open();
 *
 * Events, each with its `detail`: `state` {state, code, reason, wait}, and the server's pushes under their own
 * names. `subscribed` says with `resumed` whether this client had the channel before; the messages of its reply
 * follow as `message` events with `replayed: true`. `unsubscribed` also tells of a subscription that was refused.
 */

const STOP = new Set([1002, 1007, 1009, 4002, 4003, 4005, 4012]);
const LONG = new Set([4008, 4010]);
const [FIRST_WAIT, LONGEST_WAIT] = [500, 30_000];
const PATIENCE = 10_000; // for a connection to be made, and on top of the heartbeat for a sign of life

export class Client extends EventTarget {
    /** "closed", "connecting", "connected", or "waiting" for the next attempt. */
    state = "closed";
    /** What the server said in `connected`. */
    session = null;
    #url;
    #options;
    #socket = null;
    #greeted = false;
    #subs = new Map(); // channel -> {options, since, resumed, server}
    #replies = new Map(); // command id -> {resolve, reject}
    #id = 0;
    #losses = 0;
    #told = null; // ms, from the last `reconnect`
    #attempt;
    #watchdog;

    /** `token` returns, or promises, a token for each `connect` and `refresh`; `client` is {name, version}. */
    constructor(url, { token = () => undefined, client } = {}) {
        super();
        this.#url = url;
        this.#options = { token, client };
    }

    /** Connect, and reconnect until `close`, or until the server's close code says to stop. */
    open() {
        if (this.#socket) return;
        clearTimeout(this.#attempt);
        const socket = new WebSocket(this.#url, "fanway.v1.json");
        socket.onopen = () => this.#greet(socket);
        socket.onmessage = ({ data }) => this.#received(JSON.parse(data));
        socket.onclose = ({ code, reason }) => this.#lost(code, reason);
        this.#socket = socket;
        this.#watch(PATIENCE);
        this.#become("connecting");
    }

    /** Disconnect; `open` resumes where this leaves off. */
    close() {
        clearTimeout(this.#attempt);
        this.#drop();
        this.#become("closed", { code: 1000, reason: "" });
    }

    /** Follow a channel from now on and through every reconnect; `options` are the command's own fields. */
    subscribe(channel, options = {}) {
        if (this.#subs.has(channel)) return;
        const sub = { options };
        this.#subs.set(channel, sub);
        if (this.#greeted) this.#follow(channel, sub);
    }

    unsubscribe(channel) {
        this.#subs.delete(channel);
        if (this.#greeted) this.command("unsubscribe", { channel }).catch(() => {});
    }

    /** Promise the `published` reply. What was under way when the connection broke may have been published. */
    publish(channel, data, key) {
        return this.command("publish", { channel, data, key });
    }

    /** Promise the time to the server and back, in ms. */
    async ping() {
        const sent = performance.now();
        await this.command("ping");
        return performance.now() - sent;
    }

    /** Promise the reply to any command; an `error` rejects, with its `code` and `retry_after_ms`. */
    async command(type, fields = {}) {
        if (!this.#greeted) throw new Error("not connected");
        const id = ++this.#id;
        this.#send({ type, id, ...fields });
        return new Promise((resolve, reject) => this.#replies.set(id, { resolve, reject }));
    }

    async #greet(socket) {
        const { token, client } = this.#options;
        const fetched = await Promise.resolve().then(token).catch((error) => error);
        if (socket !== this.#socket) return;
        if (fetched instanceof Error) return this.#lost(0, fetched.message);
        this.#greeted = true;
        const own = [...this.#subs].filter(([, sub]) => sub.server);
        const subs = Object.fromEntries(own.map(([channel, { since }]) => [channel, { since }]));
        this.command("connect", { token: fetched, client, subs }).then(
            (connected) => this.#connected(connected),
            (error) => this.#emit("error", error), // the server closes, and its code says what to do
        );
        for (const [channel, sub] of this.#subs) if (!sub.server) this.#follow(channel, sub);
    }

    #connected(connected) {
        this.session = connected;
        this.#losses = 0;
        this.#become("connected");
        for (const [channel, reply] of Object.entries(connected.subs)) {
            const sub = this.#subs.get(channel) ?? { server: true };
            this.#subs.set(channel, sub);
            if (reply.type === "error") this.#refused(channel, sub, reply);
            else this.#subscribed(sub, { ...reply, channel });
        }
    }

    #follow(channel, sub) {
        this.command("subscribe", { channel, ...sub.options, since: sub.since }).then(
            (reply) => this.#subscribed(sub, reply),
            (error) => this.#refused(channel, sub, error),
        );
    }

    #subscribed(sub, reply) {
        if (this.#subs.get(reply.channel) !== sub) return; // unsubscribed meanwhile
        this.#emit("subscribed", { ...reply, resumed: Boolean(sub.resumed) });
        for (const message of reply.messages ?? []) this.#emit("message", { ...message, replayed: true });
        Object.assign(sub, { since: reply.position, resumed: true });
    }

    #refused(channel, sub, { code, message, retry_after_ms: after }) {
        const socket = this.#socket;
        const current = () => socket === this.#socket && this.#subs.get(channel) === sub;
        if (!current() || !code || code === "already_subscribed") return;
        if (after !== undefined) setTimeout(() => current() && this.#follow(channel, sub), after);
        else this.#ended({ type: "unsubscribed", channel, code, reason: message });
    }

    #ended(push) {
        this.#subs.delete(push.channel);
        this.#emit(push.type, push);
    }

    #received(message) {
        this.#watch(PATIENCE + 1000 * (this.session?.heartbeat ?? 0));
        const reply = this.#replies.get(message.id);
        if (!reply) return this.#pushed(message);
        this.#replies.delete(message.id);
        if (message.type === "error") reply.reject(Object.assign(new Error(), message));
        else reply.resolve(message);
    }

    #pushed(push) {
        const { type, channel } = push;
        if (type === "ping") return this.#send({ type: "pong" });
        if (type === "reconnect") this.#told = push.after_ms;
        if (type === "expiring") this.#refresh();
        if (type === "subscribed" && !this.#subs.has(channel)) this.#subs.set(channel, { server: true });
        const sub = this.#subs.get(channel);
        if (channel && !sub) return; // what was still on its way when it was unsubscribed
        if (type === "subscribed") return this.#subscribed(sub, push);
        if (type === "unsubscribed") return this.#ended(push);
        if (type === "message" || type === "gap") sub.since = push.message ?? push.position ?? sub.since;
        this.#emit(type, push);
    }

    async #refresh() {
        try {
            await this.command("refresh", { token: await this.#options.token() });
        } catch (error) {
            this.#emit("error", error); // the old token ends with 4004, and a reconnect fetches another
        }
    }

    #lost(code, reason) {
        this.#drop();
        if (STOP.has(code)) return this.#become("closed", { code, reason });
        const most = LONG.has(code) ? LONGEST_WAIT : Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#losses++);
        const wait = this.#told ?? Math.random() * most;
        this.#told = null;
        this.#attempt = setTimeout(() => this.open(), wait);
        this.#become("waiting", { code, reason, wait });
    }

    #drop() {
        const socket = this.#socket;
        this.#socket = null;
        this.#greeted = false;
        clearTimeout(this.#watchdog);
        if (socket) {
            socket.onopen = socket.onmessage = socket.onclose = null;
            socket.close();
        }
        const gone = new Error("the connection ended before the reply");
        for (const { reject } of this.#replies.values()) reject(gone);
        this.#replies.clear();
    }

    #watch(patience) {
        clearTimeout(this.#watchdog);
        this.#watchdog = setTimeout(() => this.#lost(0, "the server is silent"), patience);
    }

    #become(state, detail = {}) {
        this.state = state;
        this.#emit("state", { state, ...detail });
    }

    #send(message) {
        this.#socket.send(JSON.stringify(message));
    }

    #emit(type, detail) {
        this.dispatchEvent(new CustomEvent(type, { detail }));
    }
}
