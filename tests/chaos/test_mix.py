"""What `make chaos` does, once and shortly: a mix of faults by seed is survived, and leaves nothing."""

from pathlib import Path

import pytest

from tests.chaos.__main__ import main


def test_a_mix_by_seed_is_clean(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(["--seed", str(seed), "--minutes", "0", "--seconds", "3"])
    said = capsys.readouterr().out
    assert status == 0, said
    assert f"SEED={seed} nothing wrong" in said
    assert not list(tmp_path.glob("artifacts/chaos/*")), "what was clean is not kept"
