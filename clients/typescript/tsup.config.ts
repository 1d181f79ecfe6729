import { defineConfig } from "tsup";
import { mangleProps } from "./scripts/mangle.mjs";

export default defineConfig({
  entry: [
    "src/index.ts",
    "src/react.ts",
    "src/presence.ts",
    "src/msgpack.ts",
    "src/testing.ts",
    "src/storage.ts",
    "src/optimistic.ts",
    "src/debug.ts",
    "src/admin.ts",
    "src/webhooks.ts",
  ],
  format: ["esm", "cjs"],
  target: "es2020",
  sourcemap: true,
  clean: true,
  splitting: true,
  esbuildOptions(options) {
    options.mangleProps = mangleProps;
  },
});
