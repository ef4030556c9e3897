"""The README says what works: its suites are suites, its commands parse, its Python names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from taskheads.tasks.config import parse_config

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (?:echo .*\| )?(taskheads .*)$", README, re.MULTILINE)


def test_the_suite_is_one() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert len(parse_config(yaml.safe_load(block)).config.tasks) == 6


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_parse(command: str) -> None:
    from typer.main import get_command

    from taskheads.cli.app import app

    words = shlex.split(command)[1:]
    root = get_command(app)
    found = root.get_command(root.make_context("taskheads", [words[0]]), words[0])  # type: ignore[attr-defined]
    assert found is not None
    found.make_context(words[0], words[1:])


def test_there_are_commands() -> None:
    assert {shlex.split(command)[1] for command in COMMANDS} == {
        *("check", "fit", "evaluate", "predict", "remove", "add", "methods", "cache")
    }
