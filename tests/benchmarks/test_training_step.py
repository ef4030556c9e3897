"""The step's benchmark: both sides learn from the same tokens, and lose the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

TOKENS = 128


@pytest.fixture
def step(script, monkeypatch):
    """The script and its sides, with small steps."""
    sides = script("step_sides")
    monkeypatch.setattr(sides, "TOKENS", TOKENS)
    return script("training_step"), sides


def test_both_sides_lose_the_same_step_by_step(step):
    script, sides = step
    found = script.agreement(sides.Texts.read(24), 3)
    assert len(found["taskheads"]) == len(found["Trainer"]) == 3
    np.testing.assert_allclose(found["taskheads"], found["Trainer"], atol=script.APART)
    assert found["taskheads"][0] != pytest.approx(found["taskheads"][2], abs=script.APART)


def test_both_sides_count_the_real_tokens_of_the_same_rows(step):
    _, sides = step
    data = sides.Texts.read(24)
    mine, theirs = sides.Mine(data), sides.Theirs(data)
    assert theirs.lengths.tolist() == mine.rows.tokens.tolist()
    stream = mine.run(5).stream
    drawn = [stream.draw()["length"] for _ in range(sides.WARM + 2)]
    rows = np.concatenate(drawn)
    assert sides.in_order(theirs.lengths, len(rows)) == rows.tolist()

    marks = mine.round(1)
    taken = np.cumsum([theirs.lengths[each].sum() for each in drawn])
    assert [marks[number + 1][0] for number in range(len(drawn))] == taken.tolist()

    marks = theirs.round(1, 2)
    at_once = 2 * max(1, round(TOKENS / theirs.lengths.mean() / 2))
    order = sides.in_order(theirs.lengths, at_once * (sides.WARM + 2))
    taken = theirs.lengths[order].reshape(-1, at_once).sum(1).cumsum()
    assert [marks[number + 1][0] for number in range(len(taken))] == taken.tolist()
    assert [seconds.wall for _, seconds in marks.values()] == sorted(
        seconds.wall for _, seconds in marks.values()
    )


def test_the_script_compares_with_the_faster_peer(step, tmp_path, capsys, monkeypatch):
    script, _ = step
    speed = {"taskheads": 300, "Trainer, batches of 8": 100, "Trainer, batches of 32": 150}
    asked = []

    def apart(name, count, steps, threads):
        asked.append((count, steps, threads))
        # The second round is the slower one, and holds more.
        late = len(asked) > len(speed)
        seconds = 3.0 if late else 1.0
        return {
            "tokens": speed[name],
            "seconds": seconds,
            "cpu_seconds": seconds,
            "loaded_bytes": 2**20,
            "peak_bytes": speed[name] * 2**20 * (2 if late else 1),
        }

    monkeypatch.setattr(script, "apart", apart)
    out = tmp_path / "step.json"
    script.main(["--limit", "12", "--steps", "1", "--rounds", "2", "--threads", "1", "--out", str(out)])
    kept = json.loads(out.read_text())
    assert asked == [(12, 1, 1)] * 6
    agreed, rate, memory = kept["bars"]
    assert agreed["met"] is True
    assert rate["value"] == pytest.approx(300 / 150)
    assert memory["value"] == pytest.approx(600 / 300)
    assert "the faster peer: Trainer, batches of 32" in capsys.readouterr().out


def test_a_side_tells_of_its_memory_in_one_line(step, capsys):
    script, _ = step
    script.main(["--measure", "taskheads", "--limit", "12", "--steps", "1", "--threads", "1"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["tokens"] > TOKENS / 2
    assert told["peak_bytes"] >= told["loaded_bytes"] > 2**20
