/** The page: events of the client go to the views, input of the user goes to the client, the push API or the network. */

import { Fanway, type FanwayError, type StateChange } from "@fanway/client";
import { describe } from "./absence.js";
import { api, channels, fetchToken, HEADERS, post, publicUrl, publishBatch } from "./backend.js";
import { $, counted, showOutcome } from "./dom.js";
import { isLoad, Load } from "./load.js";
import { freeName, ownName, rename } from "./names.js";
import { Network } from "./network.js";
import { Outbox } from "./outbox.js";
import { Room } from "./room.js";
import { SlowClient } from "./slow.js";
import { Announcer } from "./views/announcer.js";
import { Feed, onlyText } from "./views/feed.js";
import { nameOf } from "./views/labels.js";
import { Latency } from "./views/latency.js";
import { People } from "./views/people.js";
import { Rate } from "./views/rate.js";
import { setUpTheme } from "./views/theme.js";

const CHANNEL = /^([A-Za-z0-9_.:@~-]{1,128}|@([A-Za-z0-9_.:@~-]|%[0-9A-F]{2}){1,511})$/;
const BURST_SIZE = 100;
/** Messages that are published during a cut at most: a room of dev mode keeps 100. */
const CUT_BUDGET = 75;

const STATES: Readonly<Record<string, string>> = {
  idle: "Starting …",
  connecting: "Connecting …",
  connected: "Connected",
  waiting: "No connection",
  suspended: "No connection for two minutes",
  stopped: "Offline",
};
const CLOSES: Readonly<Record<number, string>> = {
  1000: "you went offline",
  1006: "without a close frame",
  4000: "the server shuts down",
};
const GAPS: Readonly<Record<string, string>> = {
  not_recovered: "the room's history no longer has all of them",
  overflow: "this page was too slow",
  trimmed: "the room's history no longer has them",
  reset: "the gateway lost the room's history",
};

/** Start the page; what fails is shown as the state of the connection. */
export async function startPage(): Promise<void> {
  setUpTheme($("theme"));
  try {
    new Page(await publicUrl(), await fetchToken(ownName())).start();
  } catch (error) {
    $("state").textContent = `Cannot start: ${(error as Error).message}`;
  }
}

class Page {
  private readonly _network = new Network();
  private readonly _fanway: Fanway;
  private readonly _outbox: Outbox;
  private readonly _load: Load;
  private readonly _slow: SlowClient;
  private readonly _feed = new Feed($("scroller"), $("messages"), $("echoes"), $("newest"));
  private readonly _people = new People({ list: $("members"), count: $("present"), events: $("events") });
  private readonly _rate = new Rate({ rate: $("rate"), total: $("total"), peak: $("peak"), path: $("bars") });
  private readonly _latency = new Latency({ canvas: $<HTMLCanvasElement>("plot"), median: $("median"), p99: $("p99"), top: $("top") });
  private readonly _announcer = new Announcer($("heard"));
  private _room: Room | undefined;
  /** The connections that this page has had. */
  private readonly _own = new Set<string>();
  /** The number of the last message of its own load that has arrived. */
  private _lastLoad = 0;
  private _countdown: ReturnType<typeof setInterval> | undefined;
  private _cut: ReturnType<typeof setInterval> | undefined;

  /** *token* is undefined where the gateway signs none for this page: it is anonymous then. */
  constructor(url: string, token: string | undefined) {
    const user = ownName();
    let first: string | undefined = token;
    const getToken = async () => {
      const next = first ?? (await fetchToken(user));
      first = undefined;
      return next!;
    };
    this._fanway = new Fanway(url, {
      ...(token !== undefined && { getToken }),
      client: { name: "fanway-demo" },
      WebSocket: this._network.WebSocket,
      environment: this._network.environment,
    });
    this._fanway.on("state", (change) => this._onState(change));
    this._fanway.on("error", (error) => console.info(error)); // the state says what follows
    this._load = new Load((error) => showOutcome("load-outcome", error.message, { failed: true }));
    this._slow = new SlowClient(
      { toggle: $("slow"), outcome: $("slow-outcome"), received: $("slow-received"), behind: $("slow-behind"), skipped: $("slow-skipped") },
      { url, user, channel: () => this._room!.name, newest: () => this._room!.newest },
    );
    this._outbox = new Outbox(this._fanway, {
      onChange: (echoes, waiting) => {
        const isConnected = this._fanway.state === "connected";
        this._feed.echoes(
          echoes.filter(({ channel }) => channel === this._room?.name),
          { isConnected },
        );
        const isWaiting = waiting > 0 && !isConnected;
        if (!$("sent").classList.contains("failed")) {
          showOutcome("sent", isWaiting ? `${counted(waiting)} ${waiting === 1 ? "is" : "are"} sent when the connection is back` : "");
        }
      },
      onFailed: ({ text }, error) => this._onPublishFailed(text, error),
    });
    $<HTMLInputElement>("name").value = user;
    if (token === undefined) {
      $("naming").hidden = true;
      $("anonymous").hidden = false;
    }
  }

  start(): void {
    const submit = (id: string, action: () => void) =>
      $(id).addEventListener("submit", (event) => {
        event.preventDefault();
        action();
      });
    const click = (id: string, action: () => void) => $(id).addEventListener("click", action);
    addEventListener("hashchange", () => this._openRoom());
    submit("picker", () => (location.hash = $<HTMLInputElement>("channel").value));
    submit("naming", () => rename($<HTMLInputElement>("name").value));
    submit("composer", () => this._publish());
    $("channel").addEventListener("focus", () => void suggestChannels());
    $("text").addEventListener("input", () => this._showCurl());
    $("skip").addEventListener("click", (event) => {
      event.preventDefault(); // the fragment names the room
      $("text").focus();
    });
    click("toggle", () => (this._fanway.state === "stopped" ? this._fanway.connect() : void this._fanway.close()));
    click("retry", () => this._fanway.connect());
    click("cut-3", () => this._cutFor(3));
    click("cut-15", () => this._cutFor(15));
    click("load", () => this._toggleLoad());
    for (const id of ["load-rate", "load-size"]) $(id).addEventListener("change", () => this._load.running && this._startLoad());
    click("run", () => void this._push());
    click("burst", () => void this._burst());
    click("copy", () => void copyCurl());
    this._openRoom();
    this._outbox.flush();
    this._fanway.connect();
  }

  // ---------------------------------------------------------------- the connection

  private _onState({ state, previous, code, reason, delay }: StateChange): void {
    document.body.dataset.state = state;
    $("state").textContent = state === "stopped" && code !== 1000 ? "Closed by the gateway" : STATES[state]!;
    $("toggle").textContent = state === "stopped" ? "Go online" : "Go offline";
    const canRetry = state === "waiting" || state === "suspended";
    if (!canRetry && document.activeElement === $("retry")) $("toggle").focus();
    $("retry").hidden = !canRetry;
    this._showCountdown(delay);
    if (state === "connected") this._onConnected();
    else if (previous === "connected") {
      this._room?.away();
      this._latency.away(true);
      // A gateway in dev mode makes another secret when it starts: fetch another token for the next connection.
      if (!this._cut) this._fanway.setToken(undefined);
      this._people.markOutdated();
      $("connection").textContent = "–";
      const end = this._cut ? "cut by you" : (CLOSES[code!] ?? (reason || code));
      this._feed.note("lost", `Connection ended (${end})`);
    }
    if (state === "stopped" && code !== 1000) this._feed.note("gap", `The gateway does not allow a reconnect: ${reason || code}`);
    this._outbox.flush();
  }

  private _onConnected(): void {
    const { connection, node } = this._fanway.info!;
    this._own.add(connection);
    this._latency.away(false);
    this._people.self = connection;
    $("connection").textContent = connection;
    $("node").textContent = node;
    for (const id of ["sent", "pushed", "load-outcome"]) if ($(id).classList.contains("failed")) showOutcome(id, "");
  }

  /** Show the seconds until the next attempt, which begins in *delay* milliseconds. */
  private _showCountdown(delay: number | undefined): void {
    clearInterval(this._countdown);
    const end = performance.now() + (delay ?? 0);
    const show = () => {
      $("countdown").textContent = `next attempt in ${Math.max(0, (end - performance.now()) / 1000).toFixed(1)} s`;
    };
    if (delay === undefined) return void ($("countdown").textContent = "");
    show();
    this._countdown = setInterval(show, 100);
  }

  /** Drop the connection, and let no other through for a number of seconds; publish meanwhile, so that something is missed. */
  private _cutFor(seconds: number): void {
    if (this._cut) return;
    if (this._fanway.state !== "connected") return showOutcome("verdict", "There is no connection to cut.");
    const end = performance.now() + 1000 * seconds;
    const show = () => {
      const left = Math.ceil((end - performance.now()) / 1000);
      if (left <= 0) return this._restore();
      $("cut-left").textContent = `${left} s`; // not in the verdict, which screen readers announce
    };
    this._cut = setInterval(show, 250);
    // What is on its way is missed as well.
    this._load.budget = Math.max(0, CUT_BUDGET - (this._load.number - this._lastLoad));
    if (!this._load.running) this._load.start({ channel: this._room!.name, rate: CUT_BUDGET / seconds });
    $("verdict").className = "verdict";
    showOutcome("verdict", `No network for ${seconds} s; a backend goes on publishing …`);
    show();
    this._network.cut();
  }

  private _restore(): void {
    clearInterval(this._cut);
    this._cut = undefined;
    $("cut-left").textContent = "";
    // The verdict is about what was published during the cut.
    this._load.budget = 0;
    showOutcome("verdict", "The network is back …");
    this._network.restore();
  }

  // ---------------------------------------------------------------- the room

  private _openRoom(): void {
    const wanted = location.hash.slice(1);
    const name = CHANNEL.test(wanted) ? wanted : "demo";
    if (name === this._room?.name) return;
    this._room?.close();
    this._stopLoad();
    this._slow.stop();
    this._feed.clear();
    this._people.clear();
    this._room = new Room(this._fanway, name, {
      onMessage: (message, { isOld, wasMissed }) => {
        const { data, from, id } = message;
        const text = onlyText(data);
        const isOwn = from !== undefined && (this._own.has(from.connection) || (from.user !== "" && from.user === this._fanway.info?.user));
        const typed = isOwn && text !== undefined ? this._outbox.arrived(id, text) : undefined;
        this._feed.message(message, this._people.self, { recovered: wasMissed });
        if (isOld) return;
        if (isLoad(data) && data.page === this._load.page) this._lastLoad = data.load;
        this._rate.count();
        this._announcer.heard(nameOf(from), isLoad(data) ? undefined : (text ?? "data"));
        if (wasMissed) return;
        if (typed) this._latency.add(typed.at);
        else if (isLoad(data) && data.page === this._load.page) this._latency.add(data.sent);
      },
      onGap: ({ reason }) => {
        this._outbox.forgetStored();
        this._feed.note("gap", `Messages are missing here: ${GAPS[reason] ?? reason}`);
      },
      onVerdict: (verdict) => this._onVerdict(verdict),
      onGone: (reason) => this._feed.note("gap", `No longer subscribed: ${reason}`),
      onMembers: (members) => {
        this._people.show(members);
        $<HTMLAnchorElement>("another").href = `?name=${encodeURIComponent(freeName(members))}#${name}`;
      },
      onMember: (kind, member) => this._people.event(kind, member),
    });
    $<HTMLInputElement>("channel").value = name;
    $<HTMLAnchorElement>("another").href = `?name=${encodeURIComponent(freeName([]))}#${name}`;
    document.title = `${name} · Fanway`;
    this._showCurl();
  }

  private _onVerdict(verdict: Parameters<typeof describe>[0]): void {
    this._load.budget = Infinity;
    if (!$("load").matches("[aria-pressed=true]")) this._load.stop();
    const kind = verdict.lost || !verdict.inOrder || verdict.reset ? "gap" : "recovered";
    this._feed.note(kind, describe(verdict));
    showOutcome("verdict", describe(verdict) + (verdict.lost ? ". A room of dev mode keeps its last 100 messages." : ""), { failed: kind === "gap" });
    $("verdict").classList.toggle("good", kind === "recovered");
  }

  // ---------------------------------------------------------------- publishing

  private _data(): { text: string } {
    return { text: $<HTMLInputElement>("text").value.trim() || "hello" };
  }

  private _publish(): void {
    const field = $<HTMLInputElement>("text");
    if (!field.value.trim()) return field.focus();
    if (this._outbox.full) return showOutcome("sent", "Not sent: too many messages wait for the connection", { failed: true });
    const { text } = this._data();
    field.value = "";
    showOutcome("sent", "");
    this._showCurl();
    this._outbox.add(this._room!.name, text);
  }

  /** Text that was not, or perhaps not, published goes back into the field, unless something else is typed there. */
  private _onPublishFailed(text: string, error: FanwayError): void {
    const outcome = error.code === "uncertain" ? "Perhaps not sent" : "Not sent";
    showOutcome("sent", `${outcome}: ${error.message}: ${text}`, { failed: true });
    $<HTMLInputElement>("text").value ||= text;
    this._showCurl();
  }

  private _toggleLoad(): void {
    if ($("load").matches("[aria-pressed=true]")) this._stopLoad();
    else this._startLoad();
  }

  private _startLoad(): void {
    const value = (id: string) => Number($<HTMLSelectElement>(id).value);
    showOutcome("load-outcome", "");
    if (!this._cut) this._load.budget = Infinity;
    this._load.start({ channel: this._room!.name, rate: value("load-rate"), size: value("load-size") });
    $("load").setAttribute("aria-pressed", "true");
    $("load").textContent = "Stop";
  }

  private _stopLoad(): void {
    this._load.stop();
    $("load").setAttribute("aria-pressed", "false");
    $("load").textContent = "Start";
  }

  private _showCurl(): void {
    const headers = Object.entries(HEADERS).map(([name, value]) => `-H ${shellQuoted(`${name}: ${value}`)}`);
    const body = shellQuoted(JSON.stringify({ channel: this._room!.name, data: this._data() }));
    $("curl").textContent = [`curl ${api("v1/publish")}`, ...headers, `-d ${body}`].join(" \\\n  ");
  }

  private _push(): Promise<void> {
    return timed(async (took) => {
      const { message } = await post("v1/publish", { channel: this._room!.name, data: this._data() });
      return `Accepted in ${took()} as ${message ?? "a message without id"}`;
    });
  }

  private _burst(): Promise<void> {
    const channel = this._room!.name;
    const publishes = Array.from({ length: BURST_SIZE }, (_, index) => ({ channel, data: { text: `burst ${index + 1} of ${BURST_SIZE}` } }));
    return timed(async (took) => {
      const accepted = (await publishBatch(publishes)).filter((id) => id !== undefined).length;
      return `${accepted} accepted in ${took()}${accepted < BURST_SIZE ? `, ${BURST_SIZE - accepted} rejected` : ""}`;
    });
  }
}

/** Show what *push* says; it may ask how long it took. */
async function timed(push: (took: () => string) => Promise<string>): Promise<void> {
  const started = performance.now();
  try {
    showOutcome("pushed", await push(() => `${(performance.now() - started).toFixed(0)} ms`));
  } catch (error) {
    showOutcome("pushed", `No answer: ${(error as Error).message}`, { failed: true });
  }
}

const shellQuoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

async function copyCurl(): Promise<void> {
  const copied = await navigator.clipboard?.writeText($("curl").textContent ?? "").then(
    () => true,
    () => false,
  );
  showOutcome("pushed", copied ? "Copied" : "The browser does not allow this page to copy: select the text", { failed: !copied });
}

async function suggestChannels(): Promise<void> {
  $("channels").replaceChildren(...(await channels()).map(({ channel, subscribers }) => new Option(counted(subscribers, "subscriber"), channel)));
}
