// Changes one rule of the client at a time, and checks that the tests notice: `node test/mutations.mjs`.
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** File, what stands there, what stands there instead. */
const MUTATIONS = [
  ["closes.ts", "4005: STOP,", ""],
  ["closes.ts", "4008: LATER,", ""],
  ["closes.ts", 'reaction: "refresh_token"', 'reaction: "reconnect"'],
  ["closes.ts", "500 * 2 **", "500 * 3 **"],
  ["connection.ts", "const jitter = told ?? bound * this._env.random();", "const jitter = bound * this._env.random();"],
  ["connection.ts", "if (now < due + LATE_MS)", "if (true)"],
  ["connection.ts", "if (!tokens.canFetch || fresh)", "if (!tokens.canFetch)"],
  ["connection.ts", "generation === this._generation && (", "("],
  ["connection.ts", "this._attempt = 0;\n    this._lostAt", "this._lostAt"],
  ["connection.ts", "if (this._env.online()) this._begin();", "this._begin();"],
  ["subscription.ts", "if (id !== undefined && id === this.position) return;", ""],
  ["subscription.ts", "this.position !== undefined && !reply.recovered", "false"],
  ["subscription.ts", "if (position !== undefined) this.position = position;\n    const missed", "const missed"],
  ["subscription.ts", 'if (this.state !== "live") return;', ""],
  ["subscription.ts", "held.slice(known ? 0 : index + 1)", "held"],
  ["subscriptions.ts", 'subscription.paused || subscription.state === "gone" || hasOwnOptions', 'subscription.state === "gone" || hasOwnOptions'],
  ["subscriptions.ts", "queueMicrotask(() => {\n      if (subscription.sinks.size ||", "queueMicrotask(() => {\n      if ("],
  ["publisher.ts", 'reply.user !== "" && ', ""],
  ["publisher.ts", "now - entry.sentAt >= this._keyTtl * 1000", "false"],
  ["token.ts", "this._expiresAt - this._env.now() < MARGIN_MS", "false"],
  ["webhooks.ts", "difference |= byte ^ other[index]!", "difference = byte ^ other[index]!"],
  ["webhooks.ts", "if (age > tolerance)", "if (age >= tolerance)"],
  ["webhooks.ts", "if (-age > tolerance)", "if (false)"],
];

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
  const test = () => spawnSync(join(copy, "node_modules", ".bin", "vitest"), ["run", "--bail", "1"], { cwd: copy, env: environment });
  const unchanged = test();
  if (unchanged.status !== 0) throw new Error(`the tests fail without a change:\n${unchanged.stdout}${unchanged.stderr}`);
  for (const [file, before, after] of MUTATIONS) {
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
console.log(`${MUTATIONS.length - survivors.length} of ${MUTATIONS.length} changes were noticed`);
for (const survivor of survivors) console.error(`not noticed: ${survivor}`);
process.exitCode = survivors.length ? 1 : 0;
