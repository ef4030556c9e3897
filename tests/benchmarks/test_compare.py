"""The benchmark of comparisons: all parts run, are kept, and are not done again."""

from __future__ import annotations

import json

import pytest


def test_what_is_done_is_kept_and_not_done_again(script, tmp_path, capsys, monkeypatch):
    import taskheads as th

    compare, out = script("compare"), tmp_path / "figures.json"
    asked = [
        "--out",
        str(out),
        "--limit",
        "12",
        "--budget",
        "0.2",
        "--methods",
        "ia3",
        "--threads",
        "1",
    ]

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compare, "compared", stopped)
        with pytest.raises(KeyboardInterrupt):
            compare.main(asked)
    alone = json.loads(out.read_text())["alone"]
    assert set(alone) == {"ia3"}
    assert all(set(each["tests"]) == set(compare.NAMES) for each in alone.values())

    monkeypatch.setattr(th, "fit", stopped)
    compare.main(asked)
    kept = json.loads(out.read_text())
    assert kept["alone"] == alone
    mine = kept["comparison"]
    total = sum(each["seconds"] for each in alone.values())
    best = max(each["score"] for each in alone.values())
    shown = capsys.readouterr().out
    assert f"time: {mine['seconds'] / total:.2f} of theirs" in shown
    assert f"score: {100 * (mine['score'] - best):+.2f} points" in shown

    monkeypatch.setattr(compare, "compared", stopped)
    compare.main(asked)
    assert json.loads(out.read_text()) == kept
    with pytest.raises(SystemExit, match=r"has figures of 12 rows, 0.2 minutes"):
        compare.main([*asked, "--budget", "0.3"])


def test_the_rows_of_a_class_are_as_many_as_are_asked_for(script, tmp_path, data_dir):
    from collections import Counter

    compare = script("compare")
    rows = compare.few(data_dir / "clinc150" / "train.jsonl")
    assert set(Counter(row["intent"] for row in rows).values()) == {compare.EXAMPLES}
    suite = compare.suite_of(compare.declared(tmp_path), 7)
    assert {len(rows) for data in suite.tasks.values() for rows in data.splits.values()} == {7}
