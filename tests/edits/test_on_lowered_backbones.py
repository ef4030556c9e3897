"""Edits on backbones whose weights have fewer bits."""

from __future__ import annotations

import copy

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.precision import as_floats
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import edit_methods, made
from taskheads.edits.edited import Edited, frozen
from tests.backbone.models import CONFIGS, LOW, lowered, tiny
from tests.edits.planted import batch_of, edits_of, rows_of, stirred


@LOW
@pytest.mark.parametrize("method", edit_methods())
def test_every_edit_learns_on_it(precision: str, method: str) -> None:
    backbone = lowered(precision)
    edits = edits_of(backbone, method)
    with frozen(backbone):
        output = Edited(backbone, edits).run(batch_of(rows_of()))["output"]
        output.float().square().sum().backward()
    parameters = [each for edit in edits.values() for each in edit.parameters()]
    assert all(each.dtype == torch.float32 for each in parameters)
    reached = [each.grad for each in parameters if each.grad is not None]
    assert reached
    assert all(each.isfinite().all() for each in reached)
    assert any(each.any() for each in reached)


@LOW
def test_gradients_are_those_on_the_weights_as_they_stand(precision: str) -> None:
    """Against a float32 backbone whose weights are the lowered ones."""
    low, batch = lowered(precision), RaggedBatch(rows_of()["first"])
    plain = tiny(copy.deepcopy(CONFIGS["bert"]))
    plain.load_state_dict({name: each.float() for name, each in as_floats(low.model).items()})
    found = []
    for backbone in (low, Backbone(plain)):
        torch.manual_seed(0)
        edit = stirred(made("lora", backbone, ["first"]))
        weights = torch.randn(len(batch.ids), backbone.width)
        with frozen(backbone):
            output = Edited(backbone, {"first": edit}, "first").run(batch)["output"].float()
            (output * weights).sum().backward()
        found.append(torch.cat([each.grad.flatten() for each in edit.parameters()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > (0.999 if precision == "int8" else 0.98)
