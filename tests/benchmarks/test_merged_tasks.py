"""The benchmark of merged tasks: every method is asked for, and a stopped run goes on."""

from __future__ import annotations

import json

import pytest


def test_every_method_for_any_number_of_models_is_asked_for(script):
    from taskheads.merging.learned.recipes import RECIPES
    from taskheads.merging.static.known import STATIC

    merged = script("merged_tasks")
    names = {method for method, _, _ in merged.asked(2, 3)}
    assert names == {name for name, kind in STATIC.items() if kind.models is None} | set(RECIPES)


def test_an_interrupted_run_goes_on(script, tmp_path, monkeypatch, capsys):
    merged, made = script("merged_tasks"), []

    def tuned(task, *_):
        made.append(task)
        return {"score": 0.5, "cpu": 1.0}

    class Merges:
        def __init__(self, *_):
            pass

        def scored(self, method, settings, keep, originals):
            if len(made) == len(merged.TASKS) + 3:
                made.append("stop")
                raise KeyboardInterrupt
            made.append(merged.titled(method, settings, keep))
            assert originals == dict.fromkeys(merged.TASKS, 0.5)
            return {"scores": dict.fromkeys(merged.TASKS, 0.4), "kept": 0.8, "bytes": 10**6, "cpu": 1.0}

        def routed(self, originals):
            made.append("routed")
            return {"scores": originals, "kept": 1.0, "cpu": 1.0}

    monkeypatch.setattr(merged, "tuned", tuned)
    monkeypatch.setattr(merged, "Merges", Merges)
    out = tmp_path / "merged.json"
    given = ["--limit", "8", "--threads", "1", "--out", str(out)]
    with pytest.raises(KeyboardInterrupt):
        merged.main(given)
    assert len(json.loads(out.read_text())["merges"]) == 3
    merged.main(given)
    asked = [merged.titled(*each) for each in merged.asked(40, 8)]
    assert made == [*merged.TASKS, *asked[:3], "stop", *asked[3:], "routed"], "nothing is made twice"
    *named, last = (each["name"] for each in json.loads(out.read_text())["merges"])
    assert (named, last) == (asked, f"twin_merging (rank {merged.RANK})")
    assert "80.0 %" in capsys.readouterr().out
