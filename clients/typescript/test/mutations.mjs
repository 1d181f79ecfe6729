// Changes one rule of the client at a time, and checks that the tests notice: `node test/mutations.mjs`, or, for every
// second rule, `node test/mutations.mjs 1/2` and `2/2`.
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

/** File, what stands there, what stands there instead. */
const MUTATIONS = [
  ["closes.ts", "4005: STOP,", ""],
  ["closes.ts", "4008: LATER,", ""],
  ["closes.ts", '4004: { _token: "expired", ', "4004: { "],
  ["closes.ts", "500 * 2 **", "500 * 3 **"],
  ["connection.ts", "const jitter = told ?? bound * this._env.random();", "const jitter = bound * this._env.random();"],
  ["connection.ts", "if (now < due + LATE_MS)", "if (true)"],
  ["connection.ts", "(!this._tokens._canFetch || (token === \"unauthorized\" && this._freshToken))", "!this._tokens._canFetch"],
  ["connection.ts", "generation === this._generation && (", "("],
  ["connection.ts", "this._attempt = 0;\n    this._lostAt", "this._lostAt"],
  ["connection.ts", "if (this._env.online()) this._begin();", "this._begin();"],
  ["connection.ts", "if (!this._works) this._transport = 0;", ""],
  ["connection.ts", "code < OWN_CODES && ", ""],
  ["connection.ts", "if (suspended) this._works = false;", ""],
  ["connection.ts", "this._works = true;\n", ""],
  ["subscription.ts", "if (id && id === this._received) return;", ""],
  ["subscription.ts", "since && !reply.recovered", "false"],
  ["subscription.ts", "if (position) this.position = this._received = position;\n    const feeds", "const feeds"],
  ["subscription.ts", 'if (this.state !== "live") return;', ""],
  ["subscription.ts", "slowest?._behind ? slowest._handled : this.position", "this.position"],
  ["subscription.ts", "if (this._holding) return;", ""],
  ["feed.ts", "this._held!.slice(index)", "this._held!"],
  ["feed.ts", "this._held?.slice(0, this._find(position) + 1)", "undefined"],
  ["feed.ts", "({ id }) => id === position) + 1", "() => false) + page.length + 1"],
  ["feed.ts", "if (!page.length && current())", "if (current())"],
  ["subscriptions.ts", 'subscription._paused || subscription.state === "gone" || hasOwnOptions', 'subscription.state === "gone" || hasOwnOptions'],
  ["subscriptions.ts", "queueMicrotask(() => {\n      if (subscription._feeds.size ||", "queueMicrotask(() => {\n      if ("],
  ["subscriptions.ts", 'if (this._connection.state !== "stopped") this._onHandled();', "this._onHandled();"],
  ["subscriptions.ts", "this._saving = true;", ""],
  ["publisher.ts", 'reply.user !== "" && ', ""],
  ["publisher.ts", "now - entry._sentAt >= this._keyTtl * 1000", "false"],
  ["token.ts", "this._expiresAt - this._env.now() < MARGIN_MS", "false"],
  ["webhooks.ts", "difference |= byte ^ other[index]!", "difference = byte ^ other[index]!"],
  ["webhooks.ts", "if (age > tolerance)", "if (age >= tolerance)"],
  ["webhooks.ts", "if (-age > tolerance)", "if (false)"],
];

const SCENARIOS = `
import assert from "node:assert";
import { readdirSync, readFileSync } from "node:fs";
import { run } from "./scenario.mjs";

const folder = new URL("../../docs/vectors/client/", import.meta.url);
for (const file of readdirSync(folder))
  for (const scenario of JSON.parse(readFileSync(new URL(file, folder))).scenarios) {
    const { actions, leaks } = await run(scenario);
    assert.deepStrictEqual(JSON.parse(JSON.stringify(actions)), scenario.steps.map((step) => step.expect), scenario.name);
    assert.strictEqual(leaks, 0);
  }
`;

const [part, parts] = (process.argv[2] ?? "1/1").split("/").map(Number);
const chosen = MUTATIONS.filter((_, index) => index % parts === part - 1);

const source = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "mutations-"));
const copy = join(folder, "clients", "typescript");
const survivors = [];
try {
  cpSync(source, copy, { recursive: true, filter: (path) => !/node_modules|dist$/.test(path) });
  symlinkSync(join(source, "node_modules"), join(copy, "node_modules"));
  cpSync(join(source, "..", "..", "docs", "vectors"), join(folder, "docs", "vectors"), { recursive: true });
  const environment = { ...process.env };
  delete environment.TEST_GATEWAY_PUBLIC;
  writeFileSync(join(copy, "scenarios.mjs"), SCENARIOS);
  const vitest = ["run", "--bail", "1", "--no-isolate", "--pool=threads", "--maxWorkers=1"];
  /** Return the first run that fails: the scenarios alone, which take a tenth of the time, then every test. */
  const test = () => {
    buildSync({ entryPoints: [join(copy, "test", "scenario.ts")], bundle: true, platform: "node", format: "esm", outfile: join(copy, "scenario.mjs") });
    const scenarios = spawnSync(process.execPath, ["scenarios.mjs"], { cwd: copy });
    return scenarios.status ? scenarios : spawnSync(join(copy, "node_modules", ".bin", "vitest"), vitest, { cwd: copy, env: environment });
  };
  const unchanged = test();
  if (unchanged.status !== 0) throw new Error(`the tests fail without a change:\n${unchanged.stdout}${unchanged.stderr}`);
  for (const [file, before, after] of chosen) {
    const path = join(copy, "src", file);
    const text = readFileSync(path, "utf8");
    if (!text.includes(before)) throw new Error(`${file} does not have: ${before}`);
    writeFileSync(path, text.replace(before, after));
    if (test().status === 0) survivors.push(`${file}: ${before}`);
    writeFileSync(path, text);
  }
} finally {
  rmSync(folder, { recursive: true });
}
console.log(`${chosen.length - survivors.length} of ${chosen.length} changes were noticed`);
for (const survivor of survivors) console.error(`not noticed: ${survivor}`);
process.exitCode = survivors.length ? 1 : 0;
