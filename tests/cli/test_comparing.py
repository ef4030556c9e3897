"""`taskheads compare`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from taskheads.cli.comparing import minutes_of
from taskheads.errors import ConfigError
from tests.cli.conftest import Run
from tests.compare.small import written


def test_a_comparison_from_end_to_end(run: Run, tmp_path: Path) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    asked = ("compare", path, "--methods", "frozen,ia3,lora", "--budget", "1h", "--out", out, "--no-cache")
    done = run(*asked)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split()[:2] == ["way", "mean"]
    # In a line of its own, or in that of those which no task keeps.
    assert {"frozen", "ia3", "lora"} <= {word.strip(",") for line in lines[1:5] for word in line.split()}
    assert f"taskheads fit {out / 'recommended.yaml'}" in done.out
    picture = ElementTree.parse(out / "comparison.svg").getroot()
    names = {each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {"frozen", "trained parameters beside the heads", "time to fit"} <= names
    assert {each.name for each in out.iterdir()} == {
        *("asked.json", "comparison.json", "comparison.svg", "recommended.yaml", "model", "runs")
    }
    again = run(*asked, "--resume", "--json")
    assert again.json == json.loads((out / "comparison.json").read_text())


def test_mistakes_are_one_line(run: Run, tmp_path: Path) -> None:
    path = written(tmp_path)
    for given, said in (
        (("--methods", "lroa"), "did you mean 'lora'"),
        (("--budget", "soon"), "--budget 'soon' is no time"),
        (("--family", "edit"), "did you mean 'edits'"),
    ):
        done = run("compare", path, "--out", tmp_path / "out", *given)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert not (tmp_path / "out").exists()


def test_times_are_read() -> None:
    assert [minutes_of(text) for text in ("90s", "20m", "1.5h", "7")] == [1.5, 20.0, 90.0, 7.0]
    for text in ("0", "m", "-3m", "3d"):
        with pytest.raises(ConfigError):
            minutes_of(text)
