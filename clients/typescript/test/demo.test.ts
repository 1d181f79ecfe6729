/** The verdict of the demo page on the messages of an absence; the page itself is tested by tests/e2e/demo. */

import { describe as group, expect, it } from "vitest";
import { Absence, describe, numberOf } from "../demo/absence.js";

/** Return the verdict after the numbers that arrived, where 10 was the last before and *newest* the last in the meantime. */
function verdictOf(newest: number, arrived: number[], skipped?: number): string | undefined {
  const absence = new Absence(10);
  if (skipped !== undefined) absence.skip(skipped);
  absence.returned(newest);
  for (const number of arrived) absence.add(number);
  const verdict = absence.verdict();
  return verdict && describe(verdict);
}

group("an absence", () => {
  it.each([
    ["recovered", 13, [11, 12, 13], undefined, "3 missed, 3 recovered, in order, 0 lost"],
    ["nothing was published", 10, [], undefined, "0 missed, 0 recovered, in order, 0 lost"],
    ["what is published afterwards does not count", 11, [11, 12, 13], undefined, "1 missed, 1 recovered, in order, 0 lost"],
    ["a hole", 13, [11, 13], undefined, "3 missed, 2 recovered, in order, 1 lost"],
    ["swapped", 13, [11, 13, 12], undefined, "3 missed, 3 recovered, out of order, 0 lost"],
    ["twice", 12, [11, 11, 12], undefined, "2 missed, 2 recovered, out of order, 0 lost"],
    ["of before", 11, [10, 11], undefined, "1 missed, 1 recovered, out of order, 0 lost"],
    ["skipped in part", 14, [13, 14], 12, "4 missed, 2 recovered, in order, 2 lost"],
    ["skipped altogether", 14, [], 14, "4 missed, 0 recovered, in order, 4 lost"],
    ["another history", 2, [1, 2], 0, "the gateway lost the room's history: nobody knows what was missed"],
  ])("%s", (_, newest, arrived, skipped, verdict) => {
    expect(verdictOf(newest, arrived, skipped)).toBe(verdict);
  });

  it("has no verdict before the last of its messages", () => {
    expect(verdictOf(13, [11, 12])).toBeUndefined();
  });

  it("has no verdict before the newest message is known", () => {
    const absence = new Absence(10);
    absence.add(11);
    expect(absence.verdict()).toBeUndefined();
  });

  it("takes the number out of an id or a position", () => {
    expect([numberOf("17-Qe41xT"), numberOf("0-Zk3vQ1"), numberOf(undefined)]).toEqual([17, 0, 0]);
  });
});
