"""The joint benchmark: what Trainer's side decides, how both are judged, and that a stopped run goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest

TASKS = ["wnut17", "offensiveness"]


@pytest.fixture
def joint(script, monkeypatch):
    joint = script("joint")
    monkeypatch.setattr(joint, "RATES", (1e-4,))
    return joint


def test_perfect_logits_decide_the_truth(script, joint):
    """The decisions undo what the targets went through, for every kind of task."""
    from taskheads.tasks.labels import encode

    names = ["sst5", "wnut17", "nlupp_banking", "stsbenchmark", "offensiveness"]
    for name, data in joint.suite_of(names, 12).tasks.items():
        task = script("alone").Alone(data)
        rows = task.rows["test"]
        truth = encode(data.task, data.splits["test"])
        if data.task.kind == "tag":
            # One-hot at first subwords, something else at all others.
            logits = [np.zeros((len(row["sides"][0]["input_ids"]), len(data.task.labels))) for row in rows]
            for scores, row in zip(logits, rows, strict=True):
                scores[row["first"], row["target"]] = 1.0
            assert task._decided(logits, "test", None) == data.splits["test"].targets
        elif data.task.kind == "multilabel":
            logits = [20 * row["target"] - 10 for row in rows]
            assert (task._decided(logits, "test", 0.5) == truth).all()
        elif data.task.kind == "classify":
            logits = [np.eye(len(data.task.labels))[row["target"]] for row in rows]
            assert task._decided(logits, "test", None).tolist() == truth.tolist(), name
        else:
            logits = [row["target"] for row in rows]
            np.testing.assert_allclose(task._decided(logits, "test", None), truth, rtol=1e-5)


def test_logits_of_a_batch_are_those_of_each_row_alone(script, joint):
    import torch

    for data in joint.suite_of(["stsbenchmark", "wnut17"], 6).tasks.values():
        task = script("alone").Alone(data)
        model = task._model()
        together = task._logits(model, "test")
        model.eval()
        with torch.inference_mode():
            for row, logits in zip(task.rows["test"], together, strict=True):
                batch = task.collate([row])
                assert "labels" in batch
                del batch["labels"]
                own = model(**batch)["logits"][0].numpy()
                np.testing.assert_allclose(logits[: len(own)] if own.ndim else logits, own, atol=1e-5)


def test_the_first_subword_of_each_word(script):
    first = script("alone").first_subwords([None, 0, 0, 2, 2, None], 4)
    assert first.tolist() == [1, -1, 3, -1]


def test_an_interrupted_run_goes_on(script, joint, tmp_path, monkeypatch):
    import taskheads as th

    alone = script("alone").Alone
    models, fit, fit_alone = [], th.fit, alone.fit
    monkeypatch.setattr(th, "fit", lambda *a, **k: models.append(fit(*a, **k)) or models[-1], raising=False)
    out = tmp_path / "joint.json"
    given = ["--tasks", *TASKS, "--limit", "8", "--epochs", "1", "--threads", "1", "--out", str(out)]

    fitted = []

    def stopping(self, *args):
        if fitted:
            raise KeyboardInterrupt
        fitted.append(self.task.name)
        return fit_alone(self, *args)

    monkeypatch.setattr(alone, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        joint.main(given)
    assert fitted == TASKS[:1] == list(json.loads(out.read_text())["tasks"])

    again = []
    monkeypatch.setattr(alone, "fit", lambda self, *a: again.append(self.task.name) or fit_alone(self, *a))
    joint.main(given)
    assert again == TASKS[1:]
    assert len(models) == 1
    kept = json.loads(out.read_text())
    for name, each in kept["tasks"].items():
        # By way of `predict`, the score is the one that `fit` wrote into the card.
        assert each["joint"] == pytest.approx(models[0].card["tasks"][name]["test"]["value"], nan_ok=True)
        assert each["difference"]["value"] == pytest.approx(each["joint"] - each["peer"], nan_ok=True)
    alone_seconds = [each["alone"]["seconds"] for each in kept["tasks"].values()]
    assert kept["seconds"]["alone"] == pytest.approx(sum(alone_seconds))

    # The same pieces say the same, and other options ask for other pieces.
    joint.main(given)
    assert json.loads(out.read_text())["tasks"] == kept["tasks"]
    parts = joint.Parts(tmp_path / "joint")
    assert parts.get("wnut17", {"limit": 13}, lambda: {"rate": 7})["rate"] == 7


def test_without_tasknet_there_is_one_clear_sentence(script, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(name):
        raise PackageNotFoundError(name)

    peers = script("joint_peers")
    monkeypatch.setattr(peers, "version", missing)
    with pytest.raises(SystemExit, match="not installed: pip install --no-deps tasknet"):
        peers.main(["--threads", "1"])
