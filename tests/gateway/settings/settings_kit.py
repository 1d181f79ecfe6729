"""For tests of the settings: loading a file, and the faults that it has."""

from pathlib import Path

import pytest

from gateway.settings import ConfigError, Settings, load

SECRET = "a-secret-that-nobody-may-ever-read-in-a-log"


KEYS: dict[str, object] = {"auth.secret": SECRET, "push.keys": [SECRET]}


PEM = f"-----BEGIN PUBLIC KEY-----\\n{SECRET}\\n-----END PUBLIC KEY-----"


def faults_of(
    file: Path, text: str, *, dev: bool = False, flags: dict[str, object] | None = None
) -> list[str]:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, dev=dev, flags=flags)
    assert SECRET not in str(caught.value) + repr(caught.value) + repr(caught.value.faults)
    return [str(fault) for fault in caught.value.faults]


def loaded(file: Path, text: str, *, dev: bool = False, flags: dict[str, object] | None = None) -> Settings:
    file.write_text(text)
    return load(file, dev=dev, flags=KEYS if flags is None else {**KEYS, **flags})
