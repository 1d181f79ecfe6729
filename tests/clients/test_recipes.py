"""The recipes of docs/backends.md do what they say: Flask, Django, Celery and Express beside a gateway."""

import asyncio
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fanway_client import Fanway
from fanway_client.admin import AsyncFanwayAdmin
from fanway_client.webhooks import sign_webhook

from tests.broker.redis_server import RedisServer, running_redis
from tests.clients.npm import PACKAGE, run
from tests.clients.python.answer_loser import AnswerLoser
from tests.docs.pages import ROOT, Page
from tests.e2e.gateway import KEY, SECRET, GatewayProcess

PAGE = Page(ROOT / "docs" / "backends.md")
WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT = {"id": "1", "type": "user.online"}

FLASK = """
import json, sys
from recipe import app

def client(user=None):
    made = app.test_client()
    if user:
        with made.session_transaction() as session:
            session["user"] = user
    return made

body, headers = sys.argv[1], json.loads(sys.argv[2])
token = client("ann").get("/fanway/token")
print(json.dumps({
    "anonymous": client().get("/fanway/token").status_code,
    "token": token.text,
    "cache": token.headers["cache-control"],
    "published": [client("ann").post("/orders/71/pay").json["replayed"] for _ in range(2)],
    "webhooks": [
        client().post("/fanway/events", data=data, headers=given).status_code
        for data, given in ((body, headers), (body + " ", headers), (body, {}))
    ],
}))
"""

DJANGO_SETTINGS = """
SECRET_KEY = "a secret of the tests"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "shop"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
ROOT_URLCONF = "shop.urls"
"""

DJANGO_MODELS = """
from django.contrib.auth.models import User
from django.db import models

class Order(models.Model):
    user = models.ForeignKey(User, on_delete=models.CASCADE)
    state = models.CharField(default="new")
"""

DJANGO = """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

import django
django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import transaction
from django.test import Client
from shop.models import Order

body, headers = sys.argv[1], json.loads(sys.argv[2])
call_command("migrate", run_syncdb=True, verbosity=0)
user = User.objects.create_user("ann", first_name="Ann", last_name="Berg")
for pk in (72, 73):
    Order.objects.create(pk=pk, user=user)
client, anonymous = Client(), Client(enforce_csrf_checks=True)
client.force_login(user)
with transaction.atomic():
    rolled_back = client.post("/orders/73/pay/").json()
    transaction.set_rollback(True)
token = client.get("/fanway/token/")
print(json.dumps({
    "anonymous": anonymous.get("/fanway/token/").status_code,
    "token": token.text,
    "cache": token.headers["cache-control"],
    "paid": client.post("/orders/72/pay/").json(),
    "rolled_back": [rolled_back, Order.objects.get(pk=73).state],
    "webhooks": [
        anonymous.post("/fanway/events/", data, content_type="application/json", headers=given).status_code
        for data, given in ((body, headers), (body + " ", headers), (body, {}))
    ],
}))
"""


def recipe(heading: str, language: str = "python") -> list[str]:
    """Return the blocks of *language* below *heading*."""
    _, _, below = PAGE.text.partition(f"\n## {heading}\n")
    section = re.split(r"^## ", below, maxsplit=1, flags=re.MULTILINE)[0]
    assert section, heading
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def internal(gateway: GatewayProcess) -> str:
    return f"http://127.0.0.1:{gateway.internal}"


def environment(gateway: GatewayProcess, **more: str) -> Mapping[str, str]:
    return {
        "FANWAY_INTERNAL_URL": internal(gateway),
        "FANWAY_PUSH__KEYS": KEY,
        "FANWAY_AUTH__SECRET": SECRET,
        "WEBHOOK_SECRET": WEBHOOK_SECRET,
        "SECRET_KEY": "of sessions",
        "PYTHONWARNINGS": "error",
        **more,
    }


def signed() -> tuple[str, Mapping[str, str]]:
    """Return the body of a webhook, and its headers."""
    body = json.dumps({"events": [EVENT]})
    return body, sign_webhook(WEBHOOK_SECRET, body, id="batch")


def run_script(folder: Path, gateway: GatewayProcess, script: str) -> Any:
    """Run *script* in *folder*; return what it prints, as JSON."""
    (folder / "script.py").write_text(script)
    body, headers = signed()
    printed = run(
        sys.executable, "script.py", body, json.dumps(headers),
        environment=environment(gateway), cwd=folder,
    )  # fmt: skip
    return json.loads(printed.splitlines()[-1])


async def published(gateway: GatewayProcess, channel: str) -> list[Any]:
    """Return the data of what was published to *channel*."""
    async with AsyncFanwayAdmin(internal(gateway), KEY) as admin:
        return [message["data"] for message in (await admin.history(channel))["messages"]]


async def user_of(gateway: GatewayProcess, token: str) -> tuple[str, Any]:
    """Return the name and the info of the user who connects with *token*."""
    url = f"ws://127.0.0.1:{gateway.public}/v1/ws"
    async with Fanway(url, get_token=lambda _: token) as fanway:
        channel = fanway.channel(f"recipes:{uuid.uuid4().hex}", rewind=1)
        await channel.publish("hello")
        async with channel.messages() as messages:
            await anext(messages)
            (member,) = (await channel.presence.get()).members
            return member.user, member.info


async def test_flask(gateway: GatewayProcess, tmp_path: Path) -> None:
    (code,) = recipe("Flask, and other code without asyncio")
    (tmp_path / "recipe.py").write_text(code)
    printed = run_script(tmp_path, gateway, FLASK)
    assert await user_of(gateway, printed.pop("token")) == ("ann", None)
    assert printed == {
        "anonymous": 401,
        "cache": "no-store",
        "published": [False, True],
        "webhooks": [204, 401, 400],
    }
    assert await published(gateway, "orders:71") == [{"state": "paid"}]


async def test_django(gateway: GatewayProcess, tmp_path: Path) -> None:
    views, urls = recipe("Django")
    shop = tmp_path / "shop"
    shop.mkdir()
    files = {"__init__.py": "", "models.py": DJANGO_MODELS, "views.py": views, "urls.py": urls}
    for name, text in files.items():
        (shop / name).write_text(text)
    (tmp_path / "settings.py").write_text(DJANGO_SETTINGS)
    printed = run_script(tmp_path, gateway, DJANGO)
    assert await user_of(gateway, printed.pop("token")) == ("1", {"name": "Ann Berg"})
    assert "no-store" in printed.pop("cache")
    assert printed == {
        "anonymous": 401,
        "paid": {"state": "paid"},
        "rolled_back": [{"state": "paid"}, "new"],
        "webhooks": [204, 401, 400],
    }
    assert await published(gateway, "orders:72") == [{"state": "paid"}]
    assert await published(gateway, "orders:73") == []


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as server:
        yield server


async def test_celery(gateway: GatewayProcess, redis: RedisServer, tmp_path: Path) -> None:
    (code,) = recipe("Celery")
    (tmp_path / "tasks.py").write_text(code)
    async with AnswerLoser.to(gateway.internal) as loser:
        loser.losses = 1
        variables = environment(
            gateway,
            FANWAY_INTERNAL_URL=loser.url,
            CELERY_BROKER_URL=redis.url,
            CELERY_RESULT_BACKEND=redis.url,
        )
        variables = {**os.environ, **variables, "PYTHONWARNINGS": "default"}
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "solo",
            cwd=tmp_path, env=variables,
        )  # fmt: skip
        try:
            caller = await asyncio.create_subprocess_exec(
                sys.executable, "-c",
                "from tasks import publish\n"
                "task = publish.delay('orders:74', {'state': 'sent'})\n"
                "receipt = task.get(timeout=80)\n"
                "print(task.id, receipt['replayed'])",
                cwd=tmp_path, env=variables, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            task_id, replayed = (await caller.communicate())[0].decode().split()
        finally:
            worker.terminate()
            await worker.wait()
    assert replayed == "True"
    assert await published(gateway, "orders:74") == [{"state": "sent"}]
    async with AsyncFanwayAdmin(internal(gateway), KEY) as admin:
        assert (await admin.publish("orders:74", {"state": "sent"}, key=task_id))["replayed"] is True


@contextmanager
def express(gateway: GatewayProcess, folder: Path) -> Iterator[str]:
    """Run the recipe for Node; yields its URL."""
    (code,) = recipe("Node, with Express", "ts")
    listen = "app.listen(9000);"
    assert listen in code
    port = "const server: any = app.listen(0, () => console.log(server.address().port));"
    (folder / "server.ts").write_text(code.replace(listen, port))
    aliases = [f"--alias:@fanway/client/{entry}={PACKAGE}/src/{entry}.ts" for entry in ("admin", "webhooks")]
    run(
        str(PACKAGE / "node_modules" / ".bin" / "esbuild"),
        "server.ts", "--bundle", "--platform=node", "--outfile=server.cjs", *aliases,
        environment={"NODE_PATH": str(PACKAGE / "node_modules")}, cwd=folder,
    )  # fmt: skip
    with subprocess.Popen(
        ["node", "server.cjs"],
        cwd=folder,
        env={**os.environ, **environment(gateway)},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


async def test_express(gateway: GatewayProcess, tmp_path: Path) -> None:
    body, headers = signed()
    with express(gateway, tmp_path) as url:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=40) as http:
            assert (await http.get("/fanway/token")).status_code == 401
            token = await http.get("/fanway/token", headers={"x-user": "ann"})
            assert (token.status_code, token.headers["cache-control"]) == (200, "no-store")
            assert await user_of(gateway, token.text) == ("ann", None)
            paid = [(await http.post("/orders/75/pay")).json()["replayed"] for _ in range(2)]
            assert paid == [False, True]
            sent = [(body, headers), (body + " ", headers), (body, {})]
            answers = [await http.post("/fanway/events", content=data, headers=given) for data, given in sent]
            assert [answer.status_code for answer in answers] == [204, 401, 400]
    assert await published(gateway, "orders:75") == [{"state": "paid"}]
