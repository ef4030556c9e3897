"""The best-known edits against PEFT, against formulas, and on planted tasks."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from taskheads.attention.changing import moved, site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.pruning import pruned
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited, frozen
from taskheads.edits.maps import by_name
from taskheads.edits.weights.attention_heads import head_counts
from taskheads.errors import ConfigError
from tests.backbone.models import CONFIGS, tiny
from tests.edits.planted import backbone_of, rows_of, stirred

# Heads that are cut: under grouped queries whole groups.
UNEVEN = {"bert": "0.1 0.3 2.0", "llama": "0.0-1"}
ROWS = rows_of()["first"]


def peft_outputs(model: torch.nn.Module) -> torch.Tensor:
    """The last hidden states of all rows, one row at a time."""
    with torch.inference_mode():
        return torch.cat(
            [model(input_ids=torch.from_numpy(row.ids)[None]).last_hidden_state[0] for row in ROWS]
        )


def outputs(backbone: Backbone, edit) -> torch.Tensor:
    with torch.inference_mode():
        return Edited(backbone, {"first": edit}, "first").run(RaggedBatch(ROWS))["output"]


@pytest.mark.method("lora")
@pytest.mark.method("rslora")
@pytest.mark.parametrize("method", ["lora", "rslora"])
@pytest.mark.parametrize(
    ("architecture", "targets"),
    [("bert", ["query", "value"]), ("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn", "c_fc"])],
)
def test_lora_is_pefts(method: str, architecture: str, targets: list[str]) -> None:
    model = tiny(copy.deepcopy(CONFIGS[architecture]))
    backbone = Backbone(copy.deepcopy(model))
    options = {"targets": targets, "rank": 4, "alpha": 6.0}
    edit = stirred(made(method, backbone, ["first"], options))
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=targets,
        use_rslora=method == "rslora",
        fan_in_fan_out=architecture == "gpt2",
    )
    theirs = peft.get_peft_model(model, config).eval()
    layers = {name.removeprefix("base_model.model."): each for name, each in theirs.named_modules()}
    with torch.no_grad():
        for name, delta in by_name(edit.maps).items():
            layers[name].lora_A["default"].weight.copy_(delta.down)
            layers[name].lora_B["default"].weight.copy_(delta.up.T)
    assert len(by_name(edit.maps)) == sum(name.endswith("lora_A.default") for name in layers)
    torch.testing.assert_close(outputs(backbone, edit), peft_outputs(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.method("lora")
def test_loras_parameters_are_those_of_its_factors() -> None:
    edit = made("lora", backbone_of("bert"), ["first"], {"rank": 3, "targets": "all"})
    shapes = 4 * (32 + 32) + (32 + 48) + (48 + 32)
    assert sum(each.numel() for each in edit.parameters()) == 3 * 3 * shapes


@pytest.mark.method("lora_plus")
def test_lora_plus_lets_the_second_factor_learn_faster() -> None:
    edit = made("lora_plus", backbone_of("bert"), ["first"], {"ratio": 7.0, "rank": 2})
    rates = {name: edit.rate_of(name) for name, _ in edit.named_parameters()}
    assert {rate for name, rate in rates.items() if name.endswith("up")} == {7.0}
    assert {rate for name, rate in rates.items() if name.endswith("down")} == {1.0}


@pytest.mark.method("ia3")
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_ia3_is_pefts(architecture: str) -> None:
    model = tiny(copy.deepcopy(CONFIGS[architecture]))
    backbone = Backbone(copy.deepcopy(model))
    edit = stirred(made("ia3", backbone, ["first"]))
    names = [*by_name(edit.scales)]
    hidden = {int(site.split(".")[1]): each for site, each in by_name(edit.hidden).items()}
    modules = {module: name for name, module in backbone.model.named_modules()}
    lasts = {modules[backbone.layout.projections[layer]]: each for layer, each in hidden.items()}
    config = peft.IA3Config(target_modules=[*names, *lasts], feedforward_modules=[*lasts])
    theirs = peft.get_peft_model(model, config).eval()
    layers = {name.removeprefix("base_model.model."): each for name, each in theirs.named_modules()}
    with torch.no_grad():
        for name, scale in (by_name(edit.scales) | lasts).items():
            weight = layers[name].ia3_l["default"]
            weight.copy_(scale.reshape(weight.shape))
    torch.testing.assert_close(outputs(backbone, edit), peft_outputs(theirs), rtol=1e-5, atol=1e-5)


@pytest.mark.method("bitfit")
def test_bitfit_is_a_model_with_other_biases() -> None:
    model = tiny(copy.deepcopy(CONFIGS["bert"]))
    backbone = Backbone(copy.deepcopy(model))
    edit = stirred(made("bitfit", backbone, ["first"]))
    biases = {name for name, _ in model.encoder.named_parameters() if name.endswith("bias")}
    assert {f"{name}.bias".removeprefix("encoder.") for name in by_name(edit.offsets)} == biases
    with torch.no_grad():
        for name, offset in by_name(edit.offsets).items():
            model.get_parameter(f"{name}.bias").add_(offset)
    torch.testing.assert_close(outputs(backbone, edit), peft_outputs(model), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="none"):
        made("bitfit", backbone_of("llama"), ["first"])


@pytest.mark.method("houlsby")
@pytest.mark.method("pfeiffer")
@pytest.mark.parametrize(("method", "places"), [("houlsby", 2), ("pfeiffer", 1)])
def test_adapters_stand_before_the_residual_sum(method: str, places: int) -> None:
    """Against the layer of BERT written out with the adapter in it."""
    backbone = backbone_of("bert")
    edit = stirred(made(method, backbone, ["first"], {"inner": 5, "layers": [1]}))
    adapters = by_name(edit.adapters)
    assert len(adapters) == places
    row = RaggedBatch(ROWS[:1])
    layer = backbone.layout.layers[1]
    with torch.inference_mode():
        x = backbone.run(row, ["layers.0.output"])["layers.0.output"]
        heads = backbone.run(row, ["layers.1.attention.heads"])["layers.1.attention.heads"].flatten(1)
        adapted = lambda name, y: adapters[name](x, y) if name in adapters else y  # noqa: E731
        y = adapted("encoder.layer.1.attention.output.dense", layer.attention.output.dense(heads))
        x = layer.attention.output.LayerNorm(x + y)
        y = layer.output.dense(layer.intermediate.intermediate_act_fn(layer.intermediate.dense(x)))
        y = adapted("encoder.layer.1.output.dense", y)
        expected = layer.output.LayerNorm(x + y)
        found = Edited(backbone, {"first": edit}, "first").run(row, ["layers.1.output"])["layers.1.output"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def train(edited: Edited, edit, loss, steps: int) -> None:
    optimizer = torch.optim.Adam(edit.parameters(), lr=edit.lr)
    with frozen(edited.trunk):
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss(edited)
            penalty = edit.penalty()
            (value if penalty is None else value + penalty).backward()
            optimizer.step()


@pytest.mark.method("lofit")
def test_offsets_fold_into_the_bias_of_the_output_projection() -> None:
    backbone = backbone_of("bert")
    edit = stirred(made("lofit", backbone, ["first"], {"heads": [(0, 1), (0, 3), (2, 2)]}))
    assert sum(each.numel() for each in edit.parameters()) == 3 * 8
    expected = outputs(backbone, edit)
    folded = edit.fold(backbone, "first")
    assert set(folded) == {f"encoder.layer.{k}.attention.output.dense.bias" for k in (0, 2)}
    for head, offset in zip([(0, 1), (0, 3), (2, 2)], edit.offsets, strict=True):
        layer, number = head
        weight = backbone.model.get_parameter(f"encoder.layer.{layer}.attention.output.dense.weight")
        place = f"encoder.layer.{layer}.attention.output.dense.bias"
        folded[place] = folded[place] - weight[:, 8 * number : 8 * number + 8] @ offset
    for place, bias in folded.items():  # W_O v of each head, and nothing else
        torch.testing.assert_close(bias, backbone.model.get_parameter(place))
    with torch.no_grad():
        for place, bias in edit.fold(backbone, "first").items():
            backbone.model.get_parameter(place).copy_(bias)
    plain = made("lofit", backbone, ["first"], {"heads": [(0, 0)]})
    torch.testing.assert_close(outputs(backbone, plain), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.method("lofit")
def test_the_planted_head_is_ranked_first_and_kept() -> None:
    """The target is the backbone's own output when one attention head speaks twice as loud."""
    backbone = backbone_of("bert")
    layer, head = 1, 2
    batch = RaggedBatch(ROWS)

    def louder(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[:, head] *= 2
        return z

    with torch.no_grad():
        target = backbone.run(batch, ["output"], {f"layers.{layer}.attention.heads": louder})["output"]
    edit = made("lofit", backbone, ["first"], {"share": 1 / 12, "sparsity": 1e-3})
    train(
        Edited(backbone, {"first": edit}, "first"),
        edit,
        lambda edited: (edited.run(batch)["output"] - target).square().mean(),
        60,
    )
    assert edit.ranked()[0] == (layer, head)
    second = edit.following(backbone)
    assert second.heads == [(layer, head)]
    assert second.following(backbone) is None


@pytest.mark.method("lofit")
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_the_heads_are_those_that_a_pruned_backbone_has(architecture: str) -> None:
    """Layers of two, four and three attention heads: an offset moves its own, and no other."""
    backbone = pruned(AttentionHeads(backbone_of(architecture)), UNEVEN[architecture])
    counts = list(AttentionHeads(backbone).counts)
    assert len(set(counts)) > 1
    assert head_counts(backbone) == (counts, 8)
    first = made("lofit", backbone, ["first"], {"share": 1.0})
    every = [(layer, head) for layer, count in enumerate(counts) for head in range(count)]
    assert sorted(first.ranked()) == every
    assert outputs(backbone, stirred(first)).isfinite().all()
    layer = counts.index(min(counts))
    with pytest.raises(ConfigError, match=rf"no attention head \({layer}, {counts[layer]}\)"):
        made("lofit", backbone, ["first"], {"heads": [(layer, counts[layer])]})
    chosen = (layer, counts[layer] - 1)
    second = stirred(made("lofit", backbone, ["first"], {"heads": [chosen]}))
    expected = moved([chosen], {site_of(layer): torch.zeros(counts[layer], 8) + second.offsets})
    with torch.inference_mode():
        other = backbone.run(RaggedBatch(ROWS), changes=expected)["output"]
    torch.testing.assert_close(outputs(backbone, second), other)


@pytest.mark.method("prompt_tuning")
def test_a_prompt_is_as_tokens_whose_embeddings_it_has() -> None:
    for architecture in ("bert", "llama"):
        backbone = backbone_of(architecture)
        edit = made("prompt_tuning", backbone, ["first"], {"length": 2})
        tokens = [17, 41]
        with torch.no_grad():
            edit.prompt.copy_(backbone.layout.words.weight[tokens])
        longer = [type(row)(torch.tensor([*tokens, *row.ids]).numpy()) for row in ROWS]
        with torch.inference_mode():
            theirs = backbone.run(RaggedBatch(longer))["output"].split([len(row) for row in longer])
        expected = torch.cat([row[2:] for row in theirs])
        torch.testing.assert_close(outputs(backbone, edit), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.method("prefix")
def test_a_prefix_is_as_the_keys_and_values_of_tokens_before_the_row() -> None:
    backbone = backbone_of("llama")
    edit = made("prefix", backbone, ["first"], {"length": 2})
    tokens = type(ROWS[0])(torch.tensor([17, 41]).numpy())
    sites = [f"layers.{k}.attention.{part}" for k in range(3) for part in ("key", "value")]
    with torch.inference_mode():
        found = backbone.run(RaggedBatch([tokens]), sites)
        longer = [type(row)(torch.tensor([17, 41, *row.ids]).numpy()) for row in ROWS]
        theirs = backbone.run(RaggedBatch(longer))["output"].split([len(row) for row in longer])
    with torch.no_grad():
        for k in range(3):
            edit.keys[k].copy_(found[f"layers.{k}.attention.key"])
            edit.values[k].copy_(found[f"layers.{k}.attention.value"])
    expected = torch.cat([row[2:] for row in theirs])
    torch.testing.assert_close(outputs(backbone, edit), expected, rtol=1e-5, atol=1e-5)
