"""The TypeScript of the documentation compiles, in strict mode, against the types of the library."""

import json
from pathlib import Path

from tests.clients.npm import PACKAGE, run
from tests.docs.pages import PAGES, ROOT, Page

LANGUAGES = ("ts", "tsx")
SOURCES = [*PAGES, *map(Page, sorted((ROOT / "clients").glob("*/README.md")))]
CONFIG = {
    "compilerOptions": {
        "target": "es2022",
        "module": "esnext",
        "moduleResolution": "bundler",
        "lib": ["es2022", "dom"],
        "types": ["node"],
        "jsx": "react-jsx",
        "strict": True,
        "skipLibCheck": True,
        "noEmit": True,
        "paths": {
            "@fanway/client": [str(PACKAGE / "src" / "index.ts")],
            "@fanway/client/*": [str(PACKAGE / "src" / "*.ts")],
        },
    }
}
# What the blocks use without saying where it comes from: an earlier block of the page, or the application.
SURROUNDINGS = """
import type * as library from "@fanway/client";

declare global {
    interface ChatMessage { text: string }
    interface Headline { title: string }
    type Fanway<Channels = Record<string, any>> = library.Fanway<Channels>;
    const Fanway: typeof library.Fanway;
    const url: string;
    const options: library.FanwayOptions;
    const getToken: library.GetToken;
    const fanway: library.Fanway;
    const channel: library.Channel<ChatMessage>;
    function show(what: unknown): void;
}
"""
# Fails if the types of the library are not found, and everything is `any`.
CONTROL = """
import { Fanway as Library } from "@fanway/client";
import { useChannel } from "@fanway/client/react";

// @ts-expect-error: there is no such option
new Library("wss://host", { tokens: 1 });
// @ts-expect-error: the name of a channel is a string
useChannel(1);
// @ts-expect-error: a surrounding has its type
fanway.channel(1);
// @ts-expect-error: and the data of a message its own
channel.on("message", ({ data }) => data.title);
"""


def test_blocks_compile(tmp_path: Path) -> None:
    (tmp_path / "tsconfig.json").write_text(json.dumps(CONFIG))
    (tmp_path / "node_modules").symlink_to(PACKAGE / "node_modules")
    (tmp_path / "surroundings.d.ts").write_text(SURROUNDINGS)
    (tmp_path / "control.ts").write_text(CONTROL)
    count = 0
    for page in SOURCES:
        for block in page.blocks:
            if block.language in LANGUAGES:
                name = f"{page.name.removesuffix('.md').replace('/', '_')}_line_{block.line}.{block.language}"
                # Each block is a module, whose names do not meet those of others.
                (tmp_path / name).write_text(f"{block.text}\nexport {{}};\n")
                count += 1
    assert count > 0
    run(str(PACKAGE / "node_modules" / ".bin" / "tsc"), cwd=tmp_path)
