"""The protocol that the client is installed with is that of the gateway."""

import importlib.util
from pathlib import Path

CLIENT = Path(__file__).parents[3] / "clients" / "python"


def test_the_copy_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("vendor", CLIENT / "vendor.py")
    assert spec is not None
    assert spec.loader is not None
    vendor = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vendor)
    copied = {path.name: path.read_text() for path in vendor.TARGET.glob("*.py")}
    assert copied == vendor.copies(), "run python clients/python/vendor.py"
