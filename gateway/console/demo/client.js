/**
 * A client of Fanway (subprotocol `fanway.v1.json`) that reconnects and resumes every channel.
 *
 *     const client = new Client("ws://127.0.0.1:8000/v1/ws");
 *     client.addEventListener("message", ({ detail }) => console.log(detail.channel, detail.data));
 *     client.subscribe("news");
 *     client.open();
 *
 * Events, each with its `detail`: `state` {state, code, reason, delay}, and the server's pushes under their own
 * names. In `subscribed`, `resumed` is true where this client was subscribed before; the messages of the reply
 * follow as `message` events with `replayed: true`. `unsubscribed` is also dispatched for a rejected subscription; its
 * `since` is the position up to which messages arrived, for a later `subscribe`.
 */

// Close codes: docs/protocol.md#close-codes.
const NO_RECONNECT_CODES = new Set([1002, 1007, 1009, 4002, 4003, 4005, 4012]);
const TOKEN_ERRORS = new Set(["token_expired", "unauthorized"]); // another channel token may be accepted
const LONG_BACKOFF_CODES = new Set([4008, 4010]);
const [FIRST_DELAY_MS, MAX_DELAY_MS] = [500, 30_000];
const TIMEOUT_MS = 10_000; // of connecting; and, added to the heartbeat interval, of any message from the server

/** Return how many ms to wait after a number of failures in a row: random, up to a bound that doubles. */
const backoff = (failures) => Math.random() * Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** failures);

const serverSubscription = () => ({ server: true, options: {}, failures: 0 });

export class Client extends EventTarget {
    /** "closed", "connecting", "connected", or "waiting" for the next attempt. */
    state = "closed";
    /** The server's `connected` reply. */
    session = null;
    #url;
    #options;
    #socket = null;
    #connectSent = false;
    #subs = new Map(); // channel -> {options, getToken, token, since, resumed, server, failures}
    #replies = new Map(); // command id -> {resolve, reject}
    #lastId = 0;
    #failures = 0; // connections in a row that ended before `connected`
    #serverDelay = null; // ms, from the last `reconnect`
    #reconnectTimer;
    #silenceTimer;

    /** `token` returns a token, or a promise of one, for each `connect` and `refresh`; `client` is {name, version}. */
    constructor(url, { token = () => undefined, client } = {}) {
        super();
        this.#url = url;
        this.#options = { token, client };
    }

    /** Connect, and reconnect until `close`, or until a close code that excludes it. */
    open() {
        if (this.#socket) return;
        clearTimeout(this.#reconnectTimer);
        const socket = new WebSocket(this.#url, "fanway.v1.json");
        socket.onopen = () => this.#sendConnect(socket);
        socket.onmessage = ({ data }) => this.#onMessage(JSON.parse(data));
        socket.onclose = ({ code, reason }) => this.#onDisconnected(code, reason);
        this.#socket = socket;
        this.#restartSilenceTimer(TIMEOUT_MS);
        this.#setState("connecting");
    }

    /** Disconnect; `open` connects again and resumes every channel. */
    close() {
        clearTimeout(this.#reconnectTimer);
        this.#dropSocket();
        this.#setState("closed", { code: 1000, reason: "" });
    }

    /**
     * Subscribe now and after every reconnect; `options` are further fields of the command, `since` among them.
     * `options.token` is a channel token, or a function that returns one or a promise of one. The function is called
     * before the first subscription and again when the token has expired: the client then subscribes with the new token
     * from where it was, and nothing is missed if the channel keeps history. A token that is text cannot be renewed: when
     * it expires, `unsubscribed` is dispatched.
     */
    subscribe(channel, { token, since, ...options } = {}) {
        if (this.#subs.has(channel)) return;
        const getToken = typeof token === "function" ? token : null;
        const sub = { options, getToken, token: getToken ? undefined : token, since, failures: 0 };
        this.#subs.set(channel, sub);
        if (this.#connectSent) this.#sendSubscribe(channel, sub);
    }

    unsubscribe(channel) {
        this.#subs.delete(channel);
        if (this.#connectSent) this.command("unsubscribe", { channel }).catch(() => {});
    }

    /** Return a promise of the `published` reply. After a lost connection, the message may have been published. */
    publish(channel, data, key) {
        return this.command("publish", { channel, data, key });
    }

    /** Return a promise of the round-trip time in ms. */
    async ping() {
        const sent = performance.now();
        await this.command("ping");
        return performance.now() - sent;
    }

    /** Return a promise of the reply to any command; an `error` reply rejects it, with `code` and `retry_after_ms`. */
    async command(type, fields = {}) {
        if (!this.#connectSent) throw new Error("not connected");
        const id = ++this.#lastId;
        this.#send({ type, id, ...fields });
        return new Promise((resolve, reject) => this.#replies.set(id, { resolve, reject }));
    }

    async #sendConnect(socket) {
        const { token, client } = this.#options;
        const credential = await Promise.resolve().then(token).catch((error) => error);
        if (socket !== this.#socket) return;
        if (credential instanceof Error) return this.#onDisconnected(0, credential.message);
        this.#connectSent = true;
        const byServer = [...this.#subs].filter(([, sub]) => sub.server); // not subscribed by this client
        const subs = Object.fromEntries(byServer.map(([channel, { since }]) => [channel, { since }]));
        this.command("connect", { token: credential, client, subs }).then(
            (connected) => this.#onConnected(connected),
            (error) => this.#emit("error", error), // the server closes the connection; its close code decides
        );
        for (const [channel, sub] of this.#subs) if (!sub.server) this.#sendSubscribe(channel, sub);
    }

    #onConnected(connected) {
        this.session = connected;
        this.#failures = 0;
        this.#setState("connected");
        for (const [channel, reply] of Object.entries(connected.subs)) {
            const sub = this.#subs.get(channel) ?? serverSubscription();
            this.#subs.set(channel, sub);
            if (reply.type === "error") this.#onRejected(channel, sub, reply);
            else this.#onSubscribed(sub, { ...reply, channel });
        }
    }

    async #sendSubscribe(channel, sub) {
        const isCurrent = this.#whileCurrent(channel, sub);
        try {
            if (sub.getToken) sub.token ??= await sub.getToken(channel);
            if (!isCurrent()) return; // the connection has ended, or the subscription
            const reply = await this.command("subscribe", { channel, ...sub.options, token: sub.token, since: sub.since });
            this.#onSubscribed(sub, reply);
        } catch (error) {
            if (isCurrent()) this.#onRejected(channel, sub, error);
        }
    }

    /** Return a function: whether this connection and this subscription are still the current ones. */
    #whileCurrent(channel, sub) {
        const socket = this.#socket;
        return () => socket === this.#socket && this.#connectSent && this.#subs.get(channel) === sub;
    }

    #onSubscribed(sub, reply) {
        if (this.#subs.get(reply.channel) !== sub) return; // unsubscribed since then
        this.#emit("subscribed", { ...reply, resumed: Boolean(sub.resumed) });
        for (const message of reply.messages ?? []) this.#emit("message", { ...message, replayed: true });
        Object.assign(sub, { since: reply.position, resumed: true, failures: 0 });
    }

    /** Subscribe later if that can succeed, else forget the subscription; `error` has no `code` if no token could be fetched. */
    #onRejected(channel, sub, error) {
        const { code, message, retry_after_ms: after } = error;
        if (code === "already_subscribed") return;
        const isCurrent = this.#whileCurrent(channel, sub);
        const wantsToken = sub.getToken && (!code || TOKEN_ERRORS.has(code));
        if (after === undefined && !wantsToken) {
            return this.#removeSubscription({ type: "unsubscribed", channel, code, reason: message });
        }
        if (wantsToken) sub.token = undefined;
        if (!code) this.#emit("error", error);
        setTimeout(() => isCurrent() && this.#sendSubscribe(channel, sub), Math.max(after ?? 0, backoff(sub.failures++)));
    }

    #removeSubscription(push) {
        const sub = this.#subs.get(push.channel);
        this.#subs.delete(push.channel);
        this.#emit(push.type, { ...push, since: sub?.since });
    }

    /** The server has ended a subscription: renew it if only its token has expired. */
    #onUnsubscribed(sub, push) {
        if (push.code !== "token_expired" || !sub.getToken) return this.#removeSubscription(push);
        sub.token = undefined;
        this.#sendSubscribe(push.channel, sub);
    }

    #onMessage(message) {
        this.#restartSilenceTimer(TIMEOUT_MS + 1000 * (this.session?.heartbeat ?? 0));
        const reply = this.#replies.get(message.id);
        if (!reply) return this.#onPush(message);
        this.#replies.delete(message.id);
        if (message.type === "error") reply.reject(Object.assign(new Error(), message));
        else reply.resolve(message);
    }

    #onPush(push) {
        const { type, channel } = push;
        if (type === "ping") return this.#send({ type: "pong" });
        if (type === "reconnect") this.#serverDelay = push.after_ms;
        if (type === "expiring") this.#refresh();
        if (type === "subscribed" && !this.#subs.has(channel)) this.#subs.set(channel, serverSubscription());
        const sub = this.#subs.get(channel);
        if (channel && !sub) return; // sent before the server received the unsubscribe
        if (type === "subscribed") return this.#onSubscribed(sub, push);
        if (type === "unsubscribed") return this.#onUnsubscribed(sub, push);
        if (type === "message" || type === "gap") sub.since = push.message ?? push.position ?? sub.since;
        this.#emit(type, push);
    }

    async #refresh() {
        try {
            await this.command("refresh", { token: await this.#options.token() });
        } catch (error) {
            this.#emit("error", error); // the connection is closed with 4004 when the old token expires; the reconnect fetches a new one
        }
    }

    #onDisconnected(code, reason) {
        this.#dropSocket();
        if (NO_RECONNECT_CODES.has(code)) return this.#setState("closed", { code, reason });
        const delay = this.#serverDelay ?? (LONG_BACKOFF_CODES.has(code) ? Math.random() * MAX_DELAY_MS : backoff(this.#failures++));
        this.#serverDelay = null;
        this.#reconnectTimer = setTimeout(() => this.open(), delay);
        this.#setState("waiting", { code, reason, delay });
    }

    #dropSocket() {
        const socket = this.#socket;
        this.#socket = null;
        this.#connectSent = false;
        clearTimeout(this.#silenceTimer);
        if (socket) {
            socket.onopen = socket.onmessage = socket.onclose = null;
            socket.close();
        }
        const error = new Error("the connection ended before the reply");
        for (const { reject } of this.#replies.values()) reject(error);
        this.#replies.clear();
    }

    #restartSilenceTimer(ms) {
        clearTimeout(this.#silenceTimer);
        this.#silenceTimer = setTimeout(() => this.#onDisconnected(0, "no message from the server"), ms);
    }

    #setState(state, detail = {}) {
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
