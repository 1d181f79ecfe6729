"""One short round of what `make chaos` runs."""

from pathlib import Path

import pytest

from tests.chaos.__main__ import main


def test_round_of_random_faults_is_clean_and_leaves_no_files(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(["--seed", str(seed), "--minutes", "0", "--seconds", "3"])
    output = capsys.readouterr().out
    assert status == 0, output
    assert f"SEED={seed} no violations" in output
    assert not list(tmp_path.glob("artifacts/chaos/*")), "the files of a clean round are deleted"
