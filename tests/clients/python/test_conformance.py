"""The Python client passes every scenario of docs/vectors/client."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.python.scenario import Subject

FOLDER = Path(__file__).parents[3] / "docs" / "vectors" / "client"
SCENARIOS = [
    scenario
    for path in sorted(FOLDER.glob("*.json"))
    for scenario in json.loads(path.read_text(encoding="ascii"))["scenarios"]
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
async def test_scenario(scenario: dict[str, Any]) -> None:
    subject = Subject(scenario.get("options", {}))
    done = []
    for step in scenario["steps"]:
        actions = await subject.run(*step["do"])
        done.append((step["do"], actions))
        assert actions == step["expect"], done
    await subject.run("close")
    assert not subject.environment.timers
    assert not subject.environment.tasks
