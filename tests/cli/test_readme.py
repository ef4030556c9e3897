"""README and `docs/` say what works: suites are suites, commands parse, Python names exist."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from taskheads.tasks.config import parse_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]
}
COMMANDS = [
    command
    for page in PAGES.values()
    for command in re.findall(r"^    (?:echo .*\| )?(taskheads .*)$", page, re.MULTILINE)
]


def test_the_suite_is_one() -> None:
    suite, training = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
    assert len(parse_config(suite | training).config.tasks) == 6


def test_what_it_says_of_training_can_be_said() -> None:
    from taskheads.training.joint.recipe import Recipe

    (_, block) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    said = yaml.safe_load(block)["training"]
    # What is shown are the defaults.
    assert Recipe.of(said) == Recipe()


@pytest.mark.parametrize("page", PAGES)
def test_what_it_imports_is_there(page: str) -> None:
    for block in re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import | ast.ImportFrom) and "taskheads" in ast.unparse(node):
                exec(compile(ast.Module([node], []), page, "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_parse(command: str) -> None:
    from typer.main import get_command

    from taskheads.cli.app import app

    words = shlex.split(command, comments=True)[1:]
    root = get_command(app)
    found = root.get_command(root.make_context("taskheads", [words[0]]), words[0])  # type: ignore[attr-defined]
    assert found is not None
    found.make_context(words[0], words[1:])


def test_there_are_commands() -> None:
    assert {shlex.split(command)[1] for command in COMMANDS} == {
        *("check", "fit", "evaluate", "predict", "remove", "add", "methods", "cache"),
        *("compare", "merge", "serve", "export", "inspect", "prune", "lower"),
    }
