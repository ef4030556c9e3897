"""The few-shot benchmark: what is drawn, and how both sides are judged."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import PackageNotFoundError

import pytest


@pytest.fixture
def few(script):
    return script("few_shot")


def test_each_class_has_its_examples_and_all_its_test_rows(few):
    drawn = few.Drawn.of(8, None, None, 0)
    assert Counter(row["intent"] for row in drawn.train) == dict.fromkeys(
        {row["intent"] for row in few.rows_of("train")}, 8
    )
    assert drawn.test == few.rows_of("test")
    assert len({row["text"] for row in drawn.train}) == 8 * 150

    small = few.Drawn.of(64, 3, 10, 0)
    classes = {row["intent"] for row in small.train}
    assert len(classes) == 3
    assert len(small.train) == 192
    assert len(small.test) == 10
    assert {row["intent"] for row in small.test} <= classes
    assert few.Drawn.of(64, 3, 10, 0) == small != few.Drawn.of(64, 3, 10, 1)


def test_sides_are_judged_on_the_same_rows(few, tmp_path, capsys, monkeypatch):
    """Beside a peer that is always right, the product is behind by what it lacks."""

    def right(drawn, iterations, seed):
        return [row["intent"] for row in drawn.test], few.Seconds(1e6, 1e6)

    monkeypatch.setattr(few, "setfit", right)
    monkeypatch.setattr(few, "version", lambda name: "0")
    out = tmp_path / "few.json"
    few.main(["--shots", "5", "--classes", "3", "--limit", "24", "--threads", "1", "--out", str(out)])
    found = json.loads(out.read_text())["5 examples"]
    assert found["rows"] == {"train": 15, "test": 24}
    assert found["sides"]["SetFit"]["accuracy"] == 1.0
    for tune in ("frozen", "auto"):
        side = found["sides"][tune]
        assert side["accuracy"] > 1 / 2
        assert side["difference"]["value"] == pytest.approx(side["accuracy"] - 1)
        assert side["difference"]["low"] <= side["difference"]["value"] <= side["difference"]["high"]
    score, seconds = found["bars"]
    assert score["value"] == found["sides"]["auto"]["difference"]["value"]
    assert seconds["met"] is True
    assert "3 intents, 5 examples of each" in capsys.readouterr().out


def test_setfit_answers_with_names_of_the_classes(few):
    pytest.importorskip("setfit")
    drawn = few.Drawn.of(4, 3, 12, 0)
    answers, seconds = few.setfit(drawn, 2, 0)
    assert len(answers) == 12
    assert set(answers) <= {row["intent"] for row in drawn.train}
    assert sum(told == row["intent"] for told, row in zip(answers, drawn.test, strict=True)) > 6
    assert seconds.wall > 0


def test_without_the_peer_there_is_one_clear_sentence(few, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(few, "version", missing)
    with pytest.raises(SystemExit, match="pip install setfit"):
        few.main(["--threads", "1"])
