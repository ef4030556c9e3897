"""Backbones that are one shared copy and stored differences: they compute what their own weights would."""

from __future__ import annotations

import copy

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import branched
from taskheads.backbone.composed import Composed, restored_branch, stored_branch
from taskheads.backbone.forms import Dense, Form, LowRank, Masked, Quantised, packed, unpacked
from taskheads.backbone.ragged import Encoded
from taskheads.errors import ModelError
from tests.backbone.models import CONFIGS, tiny
from tests.heads.planted import normal
from tests.small_models import tiny_backbone


def differences(backbone: Backbone, seed: int = 0) -> dict[str, torch.Tensor]:
    """A small one for every other weight."""
    named = list(backbone.model.named_parameters())[::2]
    return {name: 0.05 * normal(*each.shape, seed=seed + n) for n, (name, each) in enumerate(named)}


def outputs(backbone: Backbone) -> torch.Tensor:
    encoded = [Encoded(torch.arange(5, 5 + length).numpy()) for length in (3, 7, 4)]
    (batch,) = backbone.batches(encoded)
    with torch.inference_mode():
        return backbone.run(batch)["output"]


@pytest.mark.parametrize("architecture", ["bert", "albert", "gpt2", "llama"])
def test_it_computes_what_its_own_weights_would(architecture: str) -> None:
    trunk = Backbone(tiny(copy.deepcopy(CONFIGS[architecture])))
    before, deltas = outputs(trunk), differences(trunk)
    named = dict(trunk.model.named_parameters())
    own = branched(trunk, {name: named[name].detach() + delta for name, delta in deltas.items()})
    composed = Composed(trunk, {name: Dense(delta) for name, delta in deltas.items()})
    assert torch.equal(outputs(composed), outputs(own))
    assert torch.equal(outputs(trunk), before)
    addresses = {each.data_ptr() for each in named.values()}
    assert {each.data_ptr() for each in composed.model.parameters()} == addresses, "one copy in memory"


def test_weights_come_back_when_a_pass_fails() -> None:
    trunk = tiny_backbone()
    composed = Composed(trunk, {name: Dense(each) for name, each in differences(trunk).items()})
    before = outputs(composed)

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no")

    (batch,) = composed.batches([Encoded(torch.arange(5, 9).numpy())])
    with pytest.raises(RuntimeError, match="no"):
        composed.run(batch, changes={"layers.0.mlp.hidden": fail})
    assert torch.equal(outputs(composed), before)


def test_fingerprints_tell_differences_apart() -> None:
    trunk = tiny_backbone()
    forms = {name: Dense(each) for name, each in differences(trunk).items()}
    one, same = Composed(trunk, forms), Composed(trunk, forms)
    other = Composed(trunk, {name: Dense(2 * form.values) for name, form in forms.items()})
    assert one.fingerprint == same.fingerprint
    assert len({trunk.fingerprint, one.fingerprint, other.fingerprint}) == 3


def test_what_a_form_loses_is_what_it_says() -> None:
    delta = normal(20, 30)
    assert torch.equal(Dense.of(delta).value(), delta)
    values = torch.linalg.svdvals(delta.double())
    for rank in (1, 7, 20):
        error = (LowRank.of(delta, rank).value() - delta).double().norm()
        torch.testing.assert_close(error, values[rank:].norm(), rtol=1e-4, atol=1e-4)  # Eckart-Young
    quantised = Quantised.of(delta)
    assert ((quantised.value() - delta).abs() <= quantised.scales[:, None] * 0.5001).all()
    mask = normal(20, 30, seed=1) > 0.3
    masked = Masked.of(mask, delta)
    assert masked.bits.numel() == 75
    assert torch.equal(masked.mask, mask)
    assert torch.equal(masked.value(), delta * mask)


def test_a_branch_is_stored_and_restored() -> None:
    trunk = tiny_backbone()
    deltas = differences(trunk)
    merged = Composed(trunk, {name: Dense(each) for name, each in deltas.items()})
    masked = {name: Masked.of(each > 0, each) for name, each in deltas.items()}
    for branch, below in ((merged, trunk), (Composed(trunk, masked), merged)):
        tensors, about = stored_branch(branch, below)
        assert torch.equal(outputs(restored_branch(below, tensors, about["forms"])), outputs(branch))


def test_what_does_not_fit_is_named() -> None:
    trunk = tiny_backbone()
    with pytest.raises(ModelError, match="no weight 'x'"):
        Composed(trunk, {"x": Dense(torch.ones(1))})
    name = next(iter(differences(trunk)))
    with pytest.raises(ModelError, match="has not the shape"):
        Composed(trunk, {name: Dense(torch.ones(1))})
    form: Form = Masked.of(torch.ones(3) > 0, torch.ones(3))
    for kind, parts, says in (
        ("masked", packed({"w": form})[0], "'w' is stored as masked, without its shared"),
        ("folded", {}, "'w' is stored as 'folded', which this release does not know"),
    ):
        with pytest.raises(ModelError, match=says):
            unpacked(parts, {"w": kind})
