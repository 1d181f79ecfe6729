import { defineConfig } from "vitest/config";

// `npm test` needs no gateway; tests/clients/test_typescript.py starts one for test/live.
export default defineConfig({
  test: {
    include: [process.env.TEST_GATEWAY_PUBLIC ? "test/live/*.test.{ts,tsx}" : "test/*.test.{ts,tsx}"],
    testTimeout: 20_000,
    expect: { poll: { timeout: 10_000, interval: 20 } },
  },
});
