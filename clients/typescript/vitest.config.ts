import { defineConfig } from "vitest/config";

// With TEST_BUILD, the tests run on the files of `npm run build`, in which private members have other names.
const build = new URL("dist/$1.js", import.meta.url).pathname;

// `npm test` needs no gateway; tests/clients/test_typescript.py starts one for test/live.
export default defineConfig({
  ...(process.env.TEST_BUILD && { resolve: { alias: [{ find: /^\.\.\/src\/(.*)\.js$/, replacement: build }] } }),
  test: {
    include: [process.env.TEST_GATEWAY_PUBLIC ? "test/live/*.test.{ts,tsx}" : "test/*.test.{ts,tsx}"],
    testTimeout: 20_000,
    expect: { poll: { timeout: 10_000, interval: 20 } },
  },
});
