/**
 * Builds the demo page: `npm run demo` writes it to gateway/console/demo, where it is committed and served from; with
 * a folder as its argument, to that folder. The same source gives the same bytes, which a test relies on.
 */
import { build } from "esbuild";
import { mangleProps } from "../scripts/mangle.mjs";

const here = (path) => new URL(path, import.meta.url).pathname;
const note = "Built by `make demo` from clients/typescript/demo.";

await build({
  absWorkingDir: here("."),
  entryPoints: ["demo.ts", "demo.css", "index.html", "icon.svg"],
  outdir: process.argv[2] ?? here("../../../gateway/console/demo"),
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  mangleProps,
  loader: { ".html": "copy", ".svg": "copy" },
  supported: { nesting: true },
  banner: { js: `// ${note}`, css: `/* ${note} */` },
  legalComments: "none",
});
