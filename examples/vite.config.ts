import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

export default defineConfig({
  base: "./",
  esbuild: { jsx: "automatic" },
  build: { outDir: "../dist", emptyOutDir: true, target: "es2022" },
  resolve: {
    // The library from its source beside the examples. In a project of your own, `@fanway/client` is a package.
    alias: [
      { find: /^@fanway\/client$/, replacement: path("../clients/typescript/src/index.ts") },
      { find: /^@fanway\/client\/(.*)$/, replacement: path("../clients/typescript/src/$1.ts") },
      { find: "#shared", replacement: path("shared") },
    ],
    // The library's hooks and the page share one React.
    dedupe: ["react", "react-dom"],
  },
});
