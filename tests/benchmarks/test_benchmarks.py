"""The benchmarks run: tiny runs of every script, and what their figures must be by construction."""

from __future__ import annotations

import json

import numpy as np
import pytest


def test_quality_judges_what_the_user_gets_from_both_sides(script, tmp_path, capsys, monkeypatch):
    import taskheads as th

    quality, probes = script("quality"), script("probes")
    monkeypatch.setattr(probes, "SENTENCE_CS", (1.0, 10.0))
    monkeypatch.setattr(probes, "TOKEN_CS", (0.1,))
    monkeypatch.setattr(probes, "ALPHAS", (0.1, 1.0))
    models = []
    fit = th.fit
    monkeypatch.setattr(th, "fit", lambda *a, **k: models.append(fit(*a, **k)) or models[-1], raising=False)
    out, tasks = tmp_path / "quality.json", ["sst5_classify", "stsbenchmark", "wnut17"]
    quality.main(["--tasks", *tasks, "--limit", "25", "--threads", "1", "--out", str(out)])
    kept = json.loads(out.read_text())
    assert [result["task"] for result in kept["results"]] == tasks
    for result, model in zip(kept["results"], models, strict=True):
        assert result["rows"] == {"train": 25, "dev": 25, "test": 25}
        # By way of `predict`, the score is the one that `fit` wrote into the card.
        assert result["product"] == pytest.approx(model.card["tasks"][result["task"]]["test"]["value"])
        assert result["difference"] == pytest.approx(result["product"] - result["baseline"])
        ends = result["difference_low"], result["difference_high"]
        assert result["verdict"] == ("win" if ends[0] > 0 else "loss" if ends[1] < 0 else "tie")
    shown = capsys.readouterr().out
    assert all(task in shown for task in tasks)


def test_the_probe_of_words_reads_what_the_product_reads(script, minilm):
    """First subwords of the last layer: the same vectors by way of padded batches and of ragged ones."""
    from taskheads.backbone.features import extract
    from taskheads.backbone.reads import Read

    probe = script("probes").Probe(script("report").model_folder())
    rows = [["Zürich", "unbelievably", "x"], ["one"], ["a", "much", "longer", "row", "of", "tokenisation"]]
    read = Read("output", "words")
    mine = extract(minilm, "words", rows, [read])[read]
    np.testing.assert_allclose(probe.words(rows), mine.values.numpy(), atol=1e-4)


def test_the_probe_of_label_sets_knows_labels_without_a_positive_or_a_negative(script):
    from taskheads.tasks.metrics import metric_named

    generator = np.random.default_rng(0)
    x = {split: generator.normal(size=(40, 4)) for split in ("train", "dev", "test")}
    y = {split: np.stack([each[:, 0] > 0, each[:, 0] > 9, each[:, 0] > -9], 1) for split, each in x.items()}
    found = list(script("probes")._label_sets(x, y, metric_named("micro_f1", "multilabel")))
    assert len(found) >= 8
    for candidate in found[4:]:
        assert not candidate.test[:, 1].any()
        assert candidate.test[:, 2].all()
        assert (candidate.test[:, 0] == y["test"][:, 0]).mean() > 0.9


def test_speed_runs_every_part(script, tmp_path, capsys, monkeypatch):
    out, speed, ten = tmp_path / "speed.json", script("speed"), script("ten_tasks")
    monkeypatch.setattr(speed, "BATCH_SIZES", (8,))
    monkeypatch.setattr(ten, "KINDS", {name: ten.KINDS[name] for name in ("words", "topics", "polite")})
    parts = ["--parts", "answering", "fitting"]
    speed.main([*parts, "--limit", "20", "--rounds", "1", "--threads", "1", "--out", str(out)])
    kept = json.loads(out.read_text())
    bars = [bar for part in ("answering", "fitting") for bar in kept[part]["bars"]]
    assert len(bars) == 3
    assert all(bar["value"] > 0 and bar["met"] is not None for bar in bars)
    assert kept["fitting"]["rows"]["test"] == 0
    assert kept["facts"]["threads"] == 1
    assert "in embedding passes" in capsys.readouterr().out


def test_speed_times_imports_in_fresh_processes(script):
    figures = script("speed").imports(1, peers=())
    assert figures["seconds"]["taskheads --help"]["wall"] > 0
    assert {bar["name"] for bar in figures["bars"]} == {"import taskheads", "taskheads --help"}


def test_a_bar_says_whether_it_is_met(script, capsys):
    speed = script("speed")
    assert speed.bar("slow", 1.3, "<=", 1.2)["met"] is False
    assert speed.bar("fast", 8.4, ">=", 8.0)["met"] is True
    assert capsys.readouterr().out.count("MISSED") == 1


def test_the_ten_tasks_are_labelled_by_the_text_itself(script, tmp_path, data_dir):
    suite = script("ten_tasks").ten_tasks(data_dir / "clinc150", tmp_path, limit=300)
    assert len(suite.tasks) == 10
    train = {name: data.splits["train"] for name, data in suite.tasks.items()}
    for row, text in enumerate(train["intent"].inputs[0]):
        intent = train["intent"].targets[row].split("_")
        assert train["words"].targets[row] == len(text.split())
        assert train["name_length"].targets[row] == min(4, len(intent))
        assert set(train["topics"].targets[row]) <= set(intent)
        assert set(train["people"].targets[row]) <= set(text.split())
