"""The benchmark of the heads that tuning begins with: what each way makes of a solved head."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch


def test_each_way_begins_as_its_name_says(script, minilm):
    from taskheads.training.joint.starting import starting_heads
    from taskheads.training.suite_features import single, suite_features

    ways, suite = script("starting").WAYS, script("joint").suite_of(["sst5", "offensiveness"], 60)
    features = suite_features(minilm, suite.tasks.values(), single)
    solved = starting_heads(minilm, suite.tasks, features)
    x, _ = features.of(solved["sst5"], suite.tasks["sst5"].splits["train"])

    def spread(way):
        heads = ways[way](copy.deepcopy(solved), suite.tasks, features)
        torch.testing.assert_close(heads["offensiveness"].weight, solved["offensiveness"].weight)
        with torch.no_grad():
            return heads["sst5"], heads["sst5"](x) - heads["sst5"](x).mean(0)

    whole = spread("solved")[1]
    torch.testing.assert_close(spread("third")[1], 0.3 * whole, rtol=1e-4, atol=1e-5)
    by_skill = spread("skill")[1]
    torch.testing.assert_close(
        by_skill, whole * (by_skill.norm() / whole.norm()), rtol=1e-4, atol=1e-5
    )  # in the direction of the solved one
    assert by_skill.norm() < 0.3 * whole.norm()
    drawn = spread("random")[0].weight.detach()
    reach = 1 / math.sqrt(len(drawn))
    assert 0.95 * reach < float(drawn.abs().max()) <= reach
    assert float(drawn.abs().mean()) == pytest.approx(reach / 2, rel=0.1)


def test_scores_of_every_way_and_seed_are_kept(script, tmp_path, capsys):
    out = tmp_path / "starting.json"
    options = [
        "--tasks",
        "sst5",
        "--limit",
        "40",
        "--epochs",
        "1",
        "--seeds",
        "2",
        "--ways",
        "random",
        "skill",
    ]
    script("starting").main([*options, "--threads", "1", "--out", str(out)])
    scores = json.loads(out.read_text())["scores"]
    assert list(scores) == ["random", "skill"]
    for way in scores.values():
        assert {split: len(values) for split, values in way["sst5"].items()} == {"dev": 2, "test": 2}
        assert all(0 <= value <= 1 for values in way["sst5"].values() for value in values)
    assert "heads begin" in capsys.readouterr().out
