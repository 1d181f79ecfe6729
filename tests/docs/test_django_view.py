"""The view of docs/coming-from/django-channels.md gives a user who is logged in a token, and nobody else."""

import sys
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import OctKey

from tests.clients.npm import run
from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "coming-from" / "django-channels.md")
SECRET = "a-secret-of-the-tests-that-is-long-enough"
# In a process of its own, because Django is configured once in a process.
SCRIPT = """
import django
from django.conf import settings

settings.configure(INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"], SECRET_KEY="-")
django.setup()

from django.contrib.auth.models import AnonymousUser, User
from django.test import RequestFactory
from views import fanway_token

request = RequestFactory().get("/fanway-token/")
request.user = AnonymousUser()
print(fanway_token(request).status_code)
request.user = User(pk=7, first_name="Anna", last_name="Berg")
print(fanway_token(request).content.decode())
"""


def test_token_is_of_the_user_who_is_logged_in(tmp_path: Path) -> None:
    for block in PAGE.blocks:
        if block.language == "python" and "file" in block.marks:
            (tmp_path / block.marks["file"]).write_text(block.text)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"FANWAY_AUTH__SECRET": SECRET, "FANWAY_PUSH__KEYS": "dev"}
    anonymous, token = run(sys.executable, "script.py", environment=environment, cwd=tmp_path).split()
    assert anonymous == "401"
    claims = jwt.decode(token, OctKey.import_key(SECRET)).claims
    assert (claims["sub"], claims["info"]) == ("7", {"name": "Anna Berg"})
