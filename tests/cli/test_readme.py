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
    suite, training = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
    assert len(parse_config(suite | training).config.tasks) == 6


def test_what_it_says_of_training_can_be_said() -> None:
    from taskheads.training.joint.recipe import Recipe

    (_, block) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    said = yaml.safe_load(block)["training"]
    # What is shown are the defaults.
    assert Recipe.of(said) == Recipe()


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
