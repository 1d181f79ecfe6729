"""The TypeScript client: its own tests, those beside a gateway, and its package in an empty project."""

import json
from pathlib import Path

import pytest

from tests.clients.npm import PACKAGE, npm, run
from tests.e2e.gateway import KEY, SECRET, GatewayProcess

ES_MODULE = """
import { Fanway } from "@fanway/client";
import { FanwayAdmin, mintToken } from "@fanway/client/admin";
import { FakeGateway } from "@fanway/client/testing";
import { LivePresence } from "@fanway/client/presence";
import { verifyWebhook } from "@fanway/client/webhooks";
import WebSocket from "ws";

const [url, internal, key, secret] = process.argv.slice(2);
const admin = new FanwayAdmin(internal, key);
const fanway = new Fanway(url, { WebSocket, getToken: () => mintToken(secret, { sub: "ann" }) });
const channel = fanway.channel("packed");
const messages = channel.messages();
await channel.publish("one");
await admin.publish("packed", "two");
console.log((await messages.next()).value.data, (await messages.next()).value.data);
console.log(typeof FakeGateway, typeof LivePresence, typeof verifyWebhook);
await fanway.close();
"""

COMMON_JS = """
const { Fanway, FanwayError } = require("@fanway/client");
const { FakeGateway } = require("@fanway/client/testing");
const { signWebhook, verifyWebhook, WebhookError } = require("@fanway/client/webhooks");

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const fanway = new Fanway("ws://fake", new FakeGateway().options);
fanway.channel("news").publish(1).then(async ({ id }) => {
    console.log(id, typeof FanwayError);
    const payload = await verifyWebhook(secret, await signWebhook(secret, "[1]", { id: "1" }), "[1]");
    const refused = await verifyWebhook(secret, {}, "[1]").catch((error) => error);
    console.log(payload, refused instanceof WebhookError, refused.name, refused.status);
    await fanway.close();
});
"""

TYPED = """
import { Fanway, type Message } from "@fanway/client";
import { useChannel } from "@fanway/client/react";
import { verifyWebhook, type WebhookError } from "@fanway/client/webhooks";

declare const request: { headers: Record<string, string | string[] | undefined>; body: Uint8Array };
const event: { id: string } = await verifyWebhook<{ id: string }>(["whsec_1"], request.headers, request.body);
export type Status = WebhookError["status"];
export { event };

interface ChatMessage { text: string }
const fanway = new Fanway<{ "chat:*": ChatMessage; news: number }>("wss://host");
fanway.channel("chat:1").on("message", (message: Message<ChatMessage>) => message.data.text.length);
fanway.channel("news").on("message", ({ data }) => data.toFixed());
// @ts-expect-error: a chat message has a text
void fanway.channel("chat:1").publish({ txt: "" });
const other: unknown = fanway.channel("other");
export { other, useChannel };
"""


@pytest.mark.parametrize("script", ["check", "test", "size"])
def test_its_own(script: str) -> None:
    npm("run", script)


@pytest.mark.parametrize("part", ["1/3", "2/3", "3/3"])
def test_a_change_of_any_rule_fails_a_test(part: str) -> None:
    run("node", "test/mutations.mjs", part)


def test_beside_a_gateway(gateway: GatewayProcess) -> None:
    environment = {
        "TEST_GATEWAY_PUBLIC": f"ws://127.0.0.1:{gateway.public}/v1/ws",
        "TEST_GATEWAY_INTERNAL": f"http://127.0.0.1:{gateway.internal}",
        "TEST_GATEWAY_KEY": KEY,
        "TEST_GATEWAY_SECRET": SECRET,
    }
    npm("test", environment=environment)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty project in which the packed library is installed."""
    folder = tmp_path_factory.mktemp("packed")
    npm("run", "build")
    # The build shortens private names: the tests of the source pass on its files too.
    assert "this._env" not in (PACKAGE / "dist" / "index.js").read_text()
    npm("test", environment={"TEST_BUILD": "1"})
    (packed,) = json.loads(
        npm("pack", "--ignore-scripts", "--silent", "--json", "--pack-destination", str(folder))
    )
    names = {file["path"] for file in packed["files"]}
    assert {"README.md", "package.json", "dist/index.js", "dist/index.cjs", "dist/react.d.ts"} <= names
    assert not [name for name in names if name.startswith(("src/", "test/", "node_modules/"))]
    project = folder / "project"
    project.mkdir()
    (project / "package.json").write_text('{"private": true, "type": "module"}')
    npm(
        "install", "--silent", str(folder / packed["filename"]),
        "ws", "undici@^7", "react", "typescript", "@types/react",
        cwd=project,
    )  # fmt: skip
    return project


def test_the_package_in_an_empty_project(gateway: GatewayProcess, project: Path) -> None:
    (project / "module.mjs").write_text(ES_MODULE)
    (project / "common.cjs").write_text(COMMON_JS)
    (project / "typed.ts").write_text(TYPED)
    address = f"127.0.0.1:{gateway.public}"
    arguments = (f"http://{address}", f"http://127.0.0.1:{gateway.internal}", KEY, SECRET)
    assert run("node", "module.mjs", *arguments, cwd=project) == "one two\nfunction function function\n"
    assert run("node", "common.cjs", cwd=project) == "1-fake function\n[ 1 ] true WebhookError 400\n"
    compiler = str(project / "node_modules" / ".bin" / "tsc")
    options = (
        "--noEmit",
        "--strict",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--skipLibCheck",
        "false",
    )
    run(compiler, *options, "typed.ts", cwd=project)


RUNTIMES = PACKAGE / "test" / "runtimes"


@pytest.fixture(scope="module")
def runtimes() -> Path:
    """Return the folder of the programs `bun` and `deno`, which are installed where they are missing."""
    programs = RUNTIMES / "node_modules" / ".bin"
    if not (programs / "deno").exists():
        npm("ci", "--silent", "--no-audit", "--no-fund", cwd=RUNTIMES)
    return programs


@pytest.mark.parametrize(
    "command",
    [
        ("node", "{script}", "{port}", "{secret}", "ws"),
        ("node", "{script}", "{port}", "{secret}", "undici"),
        ("node", "--experimental-websocket", "{script}", "{port}", "{secret}", "global"),
        ("{bun}", "run", "{script}", "{port}", "{secret}"),
        ("{deno}", "run", "--allow-all", "--node-modules-dir=manual", "{script}", "{port}", "{secret}"),
    ],
    ids=["node-ws", "node-undici", "node-global", "bun", "deno"],
)
def test_each_runtime(
    command: tuple[str, ...], gateway: GatewayProcess, project: Path, runtimes: Path
) -> None:
    (project / "smoke.mjs").write_text((RUNTIMES / "smoke.mjs").read_text())
    values = {
        "script": "smoke.mjs",
        "port": gateway.public,
        "secret": SECRET,
        "bun": runtimes / "bun",
        "deno": runtimes / "deno",
    }
    environment = {"DENO_NO_UPDATE_CHECK": "1", "DENO_DIR": str(project / ".deno")}
    output = run(*(part.format(**values) for part in command), cwd=project, environment=environment)
    states = "connecting,connected,waiting,connecting,connected,stopped"
    assert output.splitlines()[-1] == f"one,two {states}"
