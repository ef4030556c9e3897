"""The command line as a shell sees it: exit codes, errors, pipes, and what it costs to ask for help."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from taskheads.cli import checking

COMMANDS = ("fit", "compare", "predict", "evaluate", "add", "remove", "check", "methods", "cache")
TASKHEADS = [sys.executable, "-m", "taskheads"]


def test_help_lists_every_command(run) -> None:
    done = run("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.out
    assert "..." not in done.out.partition("Commands:")[2], "the first line of a help text is cut"


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS), ("methods", "show")])
def test_every_command_has_help(command: tuple[str, ...], run) -> None:
    done = run(*command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: taskheads {' '.join(command)}".rstrip())


def test_the_version(run) -> None:
    assert run("--version").out.startswith("taskheads 0.")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['taskheads', '--help']\nfrom taskheads.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'rich', 'sklearn'} & set(sys.modules)\n"
        "    print(*heavy, file=sys.stderr, end='')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_does_not_grow_with_how_many_lengths_were_seen() -> None:
    code = (
        "import re, sys\nfrom pathlib import Path\nsys.argv = ['taskheads', '--version']\n"
        "from taskheads.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "import torch\n"
        "def megabytes():\n"
        "    return int(re.search(r'VmRSS:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024\n"
        "def activate(lengths):\n"
        "    for length in lengths:\n        torch.nn.functional.gelu(torch.zeros(1, length, 64))\n"
        "    return megabytes()\n"
        "before = activate(range(1, 101))\nprint(activate(range(101, 1001)) - before, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stderr) < 60  # a few; 200 and more where the operator of every length is kept


def raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_sources: list[str]) -> None:
        raise error

    monkeypatch.setattr(checking, "one_source", fail)


def test_an_interrupt_is_one_line(run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(KeyboardInterrupt(), monkeypatch)
    done = run("check", "a")
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")


def test_what_the_machine_refuses_is_one_line(run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(OSError(errno.ENOSPC, "No space left on device", "/runs/m"), monkeypatch)
    done = run("check", "a")
    assert (done.code, done.err) == (2, "error: /runs/m: No space left on device\n")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EBADF, "a bug")])
def test_a_bug_keeps_its_traceback(error: Exception, run, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(error, monkeypatch)
    with pytest.raises(type(error), match="a bug"):
        run("check", "a")


def test_exit_codes_of_the_real_command(tmp_path: Path) -> None:
    done = subprocess.run([*TASKHEADS, "check", "no.csv"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no.csv: no such file or folder\n"


def test_a_pipe_that_closes_is_silent(write) -> None:
    """The reader is gone before the first line is written: what `| head` does, without the race."""
    rows = [{"text": f"text number {i} and more", "mood": "xyz"[i % 3]} for i in range(60)]
    command = [*TASKHEADS, "check", str(write("a.jsonl", rows))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*TASKHEADS, "methods", "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_methods_as_json_and_as_a_table(run) -> None:
    cards = run("methods", "--json").json
    assert isinstance(cards, list)
    table = run("methods")
    assert (table.code, table.err) == (0, "")
    for card in cards:
        assert {"name", "family", "summary", "paper", "applies_to", "evidence"} <= card.keys()
        assert card["name"] in table.out
        shown = run("methods", "show", card["name"]).out
        assert card["paper"] in shown
        assert all(test in shown for test in card["evidence"])


def test_a_family_without_methods_does_not_look_broken(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskheads import methods

    monkeypatch.setattr(methods, "catalogue", list)
    assert run("methods").out == "the catalogue has no methods yet in this release\n"
    assert (
        run("methods", "--family", "merging").out == "the family merging has no methods yet in this release\n"
    )
    assert run("methods", "--json").json == []


def test_a_card(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskheads import methods

    card = methods.Card("soft_voting", "heads", "Average.", "arXiv:0000.00001", ("tag",), "a.b:C")
    monkeypatch.setattr(methods, "catalogue", lambda: [card])
    assert "soft_voting  heads" in run("methods").out
    wrong = run("methods", "show", "soft_vote")
    assert (wrong.code, wrong.out) == (2, "")
    assert "did you mean 'soft_voting'" in wrong.err
    assert "did you mean 'heads'" in run("methods", "--family", "head").err


def test_a_card_in_full(run, tmp_path: Path) -> None:
    shown = run("methods", "show", "lora").out
    assert shown.startswith("lora  edits\n  LoRA: to each chosen linear map")
    assert 'th.fit("tasks.yaml", tune="lora")' in shown
    told = run("methods", "show", "lora", "--json").json
    assert told["parameters"]["rank"] == "8"
    assert told["paper"] == "arXiv:2106.09685"
    assert told["evidence"]
    assert run("methods", "--write-docs", tmp_path / "docs").code == 0
    assert "## lora\n" in (tmp_path / "docs" / "edits.md").read_text()


def test_the_cache(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKHEADS_CACHE", str(tmp_path))
    assert run("cache", "show").out == f"nothing is kept in {tmp_path}\n"
    assert run("cache", "show", "--json").json == {"folder": str(tmp_path), "entries": []}
    assert run("cache", "clear").out == f"0 B freed in {tmp_path}\n"


def test_json_is_utf8_whatever_the_locale(write) -> None:
    rows = [{"text": f"{i} fiancé and more", "mood": ["né", "été"][i % 2]} for i in range(60)]
    command = [*TASKHEADS, "check", "--json", str(write("a.jsonl", rows))]
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert json.loads(done.stdout.decode())["tasks"][0]["most_frequent"][0][0] in ("né", "été")
