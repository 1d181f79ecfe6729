import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { run, type Scenario } from "./scenario.js";

const FOLDER = new URL("../../../docs/vectors/client/", import.meta.url);

for (const file of readdirSync(FOLDER)) {
  const { scenarios } = JSON.parse(readFileSync(new URL(file, FOLDER), "utf8")) as { scenarios: Scenario[] };
  describe(file, () => {
    it.each(scenarios.map((scenario) => [scenario.name, scenario] as const))("%s", async (_name, scenario) => {
      const { actions, leaks } = await run(scenario);
      expect(actions).toEqual(scenario.steps.map((step) => step.expect));
      expect(leaks).toBe(0);
    });
  });
}
