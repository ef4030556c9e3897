"""Task vectors: their algebra, and what each form of storing them keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from taskheads.errors import ModelError
from taskheads.merging.static.averages import TaskArithmetic
from taskheads.merging.tensors import merge_tensors
from taskheads.merging.vectors import TaskVector, as_dense, as_low_rank, as_masked, as_quantised, load, save
from tests.heads.planted import generator
from tests.merging.models import close, family, near, tensors


def test_the_algebra_is_that_of_vectors() -> None:
    base, models = family(2)
    a, b = (TaskVector.between(model, base) for model in models)
    assert close(dict(a.applied_to(base)), models[0])
    assert close(dict((a - a).applied_to(base)), base, 0)
    composed = dict((sum([a, b]) * 0.5 - 0.2 * a + -b).applied_to(base))
    assert close(composed, merge_tensors(TaskArithmetic(), models, base, [0.3, -0.5]))
    assert len(a) == len(base)
    with pytest.raises(ModelError, match="only one of two task vectors has the tensor 'norm'"):
        a + TaskVector.between(
            *({n: v for n, v in each.items() if n != "norm"} for each in (models[1], base))
        )
    with pytest.raises(ModelError, match="'norm' is not in both models in the same shape"):
        TaskVector.between(models[0] | {"norm": torch.ones(7)}, base)


def test_nothing_is_composed_before_it_is_asked_for() -> None:
    base, (model,) = family(1)
    asked: list[str] = []

    class Told(dict):
        def __getitem__(self, name: str) -> torch.Tensor:
            asked.append(name)
            return super().__getitem__(name)

    vector = -2 * TaskVector.between(Told(model), base)
    asked.clear()  # shapes were looked at
    vector["norm"]
    assert asked == ["norm"]


def test_each_form_comes_back_from_a_file(tmp_path: Path) -> None:
    base, models = family(2)
    a, b = (TaskVector.between(model, base) for model in models)
    masked, _ = as_masked([a, b], a + b)
    forms = {
        "dense": as_dense(a),
        "low_rank": as_low_rank(a, 2),
        "quantised": as_quantised(a),
        "masks": masked,
    }
    for name, form in forms.items():
        save(form, tmp_path / name)
        found = load(tmp_path / name, a + b)
        assert close(dict(found), {key: each.value() for key, each in form.items()})
    with pytest.raises(ModelError, match="name the task vector that they are over"):
        load(tmp_path / "masks")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(forms)


@pytest.mark.method("tall_masks_consensus")
@pytest.mark.parametrize("threshold", [0.1, 0.4, 3.0])
def test_masks_restore_each_task_whose_support_is_its_own(threshold: float) -> None:
    base = tensors(0)
    draw = {name: torch.rand(each.shape, generator=generator(9)) for name, each in base.items()}
    models = []
    for low, high in ((0.0, 0.3), (0.3, 0.7)):
        own = near(base, len(models) + 1)
        mine = {name: (low <= each) & (each < high) for name, each in draw.items()}
        models.append({name: torch.where(mine[name], own[name], base[name]) for name in base})
    vectors = [TaskVector.between(model, base) for model in models]
    for forms, model in zip(as_masked(vectors, sum(vectors), threshold), models, strict=True):  # type: ignore[arg-type]
        assert close(dict(TaskVector.stored(forms).applied_to(base)), model, 1e-7)
        bits = sum(form.parts()["bits"].numel() for form in forms.values())
        assert bits <= sum(-(-each.numel() // 8) for each in base.values())


def test_low_rank_keeps_a_vector_of_that_rank(tmp_path: Path) -> None:
    base = tensors(0)
    model = dict(base)
    model["layers.0.w"] = base["layers.0.w"] + torch.outer(torch.arange(8.0), torch.arange(6.0)) / 10
    forms = as_low_rank(TaskVector.between(model, base), 1)
    assert close(dict(TaskVector.stored(forms).applied_to(base)), model, 1e-5)
    assert forms["layers.0.w"].parts()["left"].shape == (8, 1)
    save(forms, tmp_path / "x")
    assert close(dict(load(tmp_path / "x").applied_to(base)), model, 1e-5)
