// The size of each entry as a page loads it: bundled, minified, gzip -9. Fails if one has outgrown its budget.
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { mangleProps } from "./mangle.mjs";

/** Bytes; the core is what `import { Fanway } from "@fanway/client"` brings. */
const BUDGETS = { index: 8 * 1024, presence: 1024, react: 2560, optimistic: 1280, storage: 1024, debug: 1024, msgpack: 8 * 1024, testing: 3 * 1024, admin: 2 * 1024, webhooks: 2 * 1024 };

let failed = false;
for (const [entry, budget] of Object.entries(BUDGETS)) {
  const { outputFiles } = await build({
    entryPoints: [new URL(`../src/${entry}.ts`, import.meta.url).pathname],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2020",
    mangleProps,
    external: ["react"],
    write: false,
  });
  const size = gzipSync(outputFiles[0].contents, { level: 9 }).length;
  failed ||= size > budget;
  console.log(`${entry}: ${size} of ${budget} bytes${size > budget ? ", too large" : ""}`);
}
process.exitCode = failed ? 1 : 0;
