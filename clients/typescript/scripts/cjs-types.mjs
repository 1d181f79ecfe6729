// The types of the CommonJS files: the same, with `.cjs` in their imports (https://arethetypeswrong.github.io).
import { readdirSync, readFileSync, writeFileSync } from "node:fs";

const folder = new URL("../dist/", import.meta.url);
for (const name of readdirSync(folder).filter((file) => file.endsWith(".d.ts"))) {
  const text = readFileSync(new URL(name, folder), "utf8");
  writeFileSync(new URL(name.replace(".d.ts", ".d.cts"), folder), text.replaceAll(/(from "\.\/[^"]+)\.js"/g, '$1.cjs"'));
}
