"""nginx in front of a gateway, with the configuration of docs/operations.md."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.ports import HOST, reserved
from tests.docs.pages import ROOT, Page

_TEMPLATE = """
daemon off;
worker_processes 1;
error_log stderr info;
pid {home}/nginx.pid;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
{site}
}}
"""


@contextmanager
def running_nginx(home: Path, gateway_port: int) -> Iterator[int]:
    """Run nginx in front of the gateway on *gateway_port*; yields the port of nginx."""
    with reserved() as port:
        config = home / "nginx.conf"
        config.write_text(_TEMPLATE.format(home=home, site=_documented_site(port, gateway_port)))
        executable = shutil.which("nginx") or "/usr/sbin/nginx"
        subprocess.run([executable, "-t", "-q", "-c", str(config), "-p", str(home)], check=True)
        with (home / "nginx.log").open("w") as log:
            process = subprocess.Popen(
                [executable, "-c", str(config), "-p", str(home)], stderr=log, stdout=log
            )
        with process:
            try:
                yield port
            finally:
                process.terminate()
    assert process.returncode == 0, (home / "nginx.log").read_text()


def _documented_site(port: int, gateway_port: int) -> str:
    """Return the documented configuration, without TLS, on *port*."""
    (site,) = (
        block.text
        for block in Page(ROOT / "docs" / "operations.md").blocks
        if block.language == "nginx" and "/v1/ws" in block.text
    )
    assert "listen 443 ssl" in site
    assert "server 127.0.0.1:8000;" in site
    return site.replace("listen 443 ssl", f"listen {HOST}:{port} reuseport").replace(
        "server 127.0.0.1:8000;", f"server {HOST}:{gateway_port};"
    )
