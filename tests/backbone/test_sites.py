"""What is read at a site is what Hugging Face computes there, and an edit changes what is above it alone."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers as hf

from taskheads.backbone import attention
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.reads import Read
from taskheads.errors import BackboneError
from tests.backbone.models import CONFIGS, DEBERTA, VIT, tiny

LENGTHS = [5, 1, 9, 5, 3]
ALL = [*CONFIGS, "deberta"]


def config_of(architecture: str) -> hf.PretrainedConfig:
    return copy.deepcopy(DEBERTA if architecture == "deberta" else CONFIGS[architecture])


def rows(seed: int = 0) -> list[Encoded]:
    generator = np.random.default_rng(seed)
    return [Encoded(generator.integers(3, 97, length)) for length in LENGTHS]


def batch() -> RaggedBatch:
    return RaggedBatch(rows())


def close(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def plain_rows(model: torch.nn.Module, **how: bool) -> list:
    return [model(input_ids=torch.from_numpy(row.ids)[None], **how) for row in rows()]


every_architecture = pytest.mark.parametrize("architecture", ALL)


@every_architecture
@torch.inference_mode()
def test_layer_outputs_are_the_hidden_states(architecture: str) -> None:
    plain = tiny(config_of(architecture))
    backbone = Backbone(copy.deepcopy(plain))
    sites = ["embeddings", *(f"layers.{n}.output" for n in range(3)), "output"]
    found = backbone.run(batch(), sites)
    theirs = plain_rows(plain, output_hidden_states=True)
    for number, site in enumerate(sites[:-2]):
        close(found[site], torch.cat([row.hidden_states[number][0] for row in theirs]))
    close(found["output"], torch.cat([row.last_hidden_state[0] for row in theirs]))
    # Above the last layer there may be a norm; without one the last two sites are the same.
    if torch.equal(theirs[0].hidden_states[-1], theirs[0].last_hidden_state):
        normed = [name for name, _ in plain.named_modules() if name.endswith(("norm", "ln_f", "layer_norm"))]
        assert normed or torch.equal(found["layers.2.output"], found["output"])


@pytest.mark.parametrize(
    "architecture", ["bert", "distilbert", "albert", "electra", "modernbert", "gpt2", "gpt_neox"]
)
@torch.inference_mode()
def test_queries_and_keys_give_the_attention_patterns(architecture: str) -> None:
    config = config_of(architecture)
    plain = tiny(config)
    plain.set_attn_implementation("eager")
    backbone = Backbone(tiny(config_of(architecture)))
    names = [f"layers.{n}.attention.{part}" for n in range(3) for part in ("query", "key", "value", "heads")]
    found = {site: tensor.split(LENGTHS) for site, tensor in backbone.run(batch(), names).items()}
    for at, theirs in enumerate(plain_rows(plain, output_attentions=True)):
        for number in range(3):
            query, key, value, heads = (
                found[f"layers.{number}.attention.{part}"][at] for part in ("query", "key", "value", "heads")
            )
            assert query.shape == (LENGTHS[at], 4, 8)
            scores = torch.einsum("qhd,khd->hqk", query, key) * 8**-0.5
            allowed = theirs.attentions[number][0] > 0
            pattern = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            close(pattern, theirs.attentions[number][0])
            close(heads, torch.einsum("hqk,khd->qhd", pattern, value))


OUTPUT_PROJECTIONS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "bert": lambda layer: layer.attention.output.dense,
    "distilbert": lambda layer: layer.attention.out_lin,
    "albert": lambda layer: layer.albert_layers[0].attention.dense,
    "modernbert": lambda layer: layer.attn.Wo,
    "gpt2": lambda layer: layer.attn.c_proj,
    "gpt_neox": lambda layer: layer.attention.dense,
    "llama": lambda layer: layer.self_attn.o_proj,
    "qwen3": lambda layer: layer.self_attn.o_proj,
    "t5": lambda layer: layer.layer[0].SelfAttention.o,
}
DOWN_PROJECTIONS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "bert": lambda layer: layer.output.dense,
    "distilbert": lambda layer: layer.ffn.lin2,
    "albert": lambda layer: layer.albert_layers[0].ffn_output,
    "modernbert": lambda layer: layer.mlp.Wo,
    "gpt2": lambda layer: layer.mlp.c_proj,
    "gpt_neox": lambda layer: layer.mlp.dense_4h_to_h,
    "llama": lambda layer: layer.mlp.down_proj,
    "qwen3": lambda layer: layer.mlp.down_proj,
    "t5": lambda layer: layer.layer[1].DenseReluDense.wo,
    "deberta": lambda layer: layer.output.dense,
}


def outputs_of(plain: torch.nn.Module, modules: list[torch.nn.Module]) -> list[torch.Tensor]:
    """What each module puts out in the plain model, over all rows; a module named twice takes turns."""
    heard: dict[torch.nn.Module, list[torch.Tensor]] = {}
    handles = [
        module.register_forward_hook(lambda module, _, output: heard.setdefault(module, []).append(output[0]))
        for module in set(modules)
    ]
    plain_rows(plain)
    for handle in handles:
        handle.remove()
    found = []
    for number, module in enumerate(modules):
        turn, turns = modules[:number].count(module), modules.count(module)
        found.append(torch.cat(heard[module][turn::turns]))
    return found


@pytest.mark.parametrize("architecture", OUTPUT_PROJECTIONS)
@torch.inference_mode()
def test_heads_through_the_output_projection_are_the_attention_block(architecture: str) -> None:
    plain = tiny(config_of(architecture))
    backbone = Backbone(copy.deepcopy(plain))
    found = backbone.run(batch(), [f"layers.{n}.attention.heads" for n in range(3)])
    theirs = [OUTPUT_PROJECTIONS[architecture](layer) for layer in Backbone(plain).layout.layers]
    for number, expected in enumerate(outputs_of(plain, theirs)):
        projection = OUTPUT_PROJECTIONS[architecture](backbone.layout.layers[number])
        close(projection(found[f"layers.{number}.attention.heads"].flatten(1)), expected)


@pytest.mark.parametrize("architecture", DOWN_PROJECTIONS)
@torch.inference_mode()
def test_hidden_through_the_down_projection_is_the_feed_forward_block(architecture: str) -> None:
    plain = tiny(config_of(architecture))
    backbone = Backbone(copy.deepcopy(plain))
    found = backbone.run(batch(), [f"layers.{n}.mlp.hidden" for n in range(3)])
    theirs = [DOWN_PROJECTIONS[architecture](layer) for layer in Backbone(plain).layout.layers]
    for number, expected in enumerate(outputs_of(plain, theirs)):
        projection = backbone.layout.projections[number]
        assert projection is DOWN_PROJECTIONS[architecture](backbone.layout.layers[number])
        close(projection(found[f"layers.{number}.mlp.hidden"]), expected)


def bent(tensor: torch.Tensor) -> torch.Tensor:
    """Each channel scaled in its own way: what all have in common a norm above would take back."""
    return tensor * torch.linspace(0.5, 2.0, tensor.shape[-1]) + 0.1


@every_architecture
@torch.inference_mode()
def test_an_identity_edit_changes_no_bit_and_an_edit_only_what_is_above(architecture: str) -> None:
    backbone = Backbone(tiny(config_of(architecture)))
    names = backbone.layout.names
    before = backbone.run(batch(), names)
    assert list(dict.fromkeys(names)) == names
    assert set(before) == set(names)
    same = backbone.run(batch(), names, {site: lambda tensor: tensor for site in names})
    assert all(torch.equal(before[site], same[site]) for site in names)
    for edited in names:
        after = backbone.run(batch(), names, {edited: bent})
        at = names.index(edited)
        # Query, key and value stand beside one another, not one above the other.
        beside = {site for site in names if site.rpartition(".")[2] in {"query", "key", "value"}}
        beside = {site for site in beside if site.rpartition(".")[0] == edited.rpartition(".")[0]}
        untouched = [*names[:at], *(beside - {edited} if edited in beside else ())]
        assert all(torch.equal(before[site], after[site]) for site in untouched), edited
        close(after[edited], bent(before[edited]))
        assert not torch.allclose(after["output"], before["output"]), edited


@every_architecture
@torch.inference_mode()
def test_stopping_early_gives_the_values_of_the_full_pass(architecture: str) -> None:
    backbone = Backbone(tiny(config_of(architecture)))
    whole = backbone.run(batch(), backbone.layout.names)
    for site in backbone.layout.names:
        assert torch.equal(backbone.run(batch(), [site])[site], whole[site]), site


@torch.inference_mode()
def test_layers_above_the_deepest_site_are_not_computed() -> None:
    backbone = Backbone(tiny(config_of("bert")))
    called: list[int] = []
    for number, layer in enumerate(backbone.layout.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: called.append(number))
    backbone.run(batch(), ["layers.1.attention.heads", "embeddings"])
    assert called == [0, 1]
    called.clear()
    backbone.run(batch(), ["output"])
    assert called == [0, 1, 2]


@pytest.mark.parametrize("architecture", ["bert", "albert", "gpt2", "llama", "t5", "deberta"])
def test_gradients_flow_through_reads_and_edits(architecture: str) -> None:
    backbone = Backbone(tiny(config_of(architecture)))
    offset = torch.zeros(backbone.width, requires_grad=True)
    found = backbone.run(batch(), ["layers.2.output"], {"layers.0.output": lambda tensor: tensor + offset})
    found["layers.2.output"].square().sum().backward()
    assert offset.grad is not None
    assert offset.grad.abs().sum() > 0


@pytest.mark.parametrize("architecture", [a for a in OUTPUT_PROJECTIONS if a != "albert"])
@torch.inference_mode()
def test_silencing_an_attention_head_is_cutting_it_from_the_output_projection(architecture: str) -> None:
    plain = tiny(config_of(architecture))
    backbone = Backbone(copy.deepcopy(plain))

    def silence(heads: torch.Tensor) -> torch.Tensor:
        heads = heads.clone()
        heads[:, 2] = 0
        return heads

    mine = backbone.run(batch(), ["output"], {"layers.1.attention.heads": silence})["output"]
    projection = OUTPUT_PROJECTIONS[architecture](Backbone(plain).layout.layers[1])
    weight = projection.weight.T if isinstance(projection, torch.nn.Linear) else projection.weight
    weight[16:24] = 0
    close(mine, torch.cat([row.last_hidden_state[0] for row in plain_rows(plain)]))


@torch.inference_mode()
def test_an_edit_of_one_row_leaves_the_others_as_they_were() -> None:
    for architecture in ("bert", "deberta", "llama"):
        backbone = Backbone(tiny(config_of(architecture)))
        plain = backbone.run(batch())["output"].split(LENGTHS)
        mine = batch().row_of_token == 2

        def shift(tensor: torch.Tensor, mine: torch.Tensor = mine) -> torch.Tensor:
            return tensor + mine[:, None] * torch.linspace(-1, 1, tensor.shape[1])

        edited = backbone.run(batch(), ["output"], {"layers.0.output": shift})["output"].split(LENGTHS)
        for number, (before, after) in enumerate(zip(plain, edited, strict=True)):
            assert torch.equal(before, after) == (number != 2)


def state_of(model: torch.nn.Module) -> list:
    return [
        (name, {key: repr(value) for key, value in vars(module).items() if "hook" in key or callable(value)})
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("architecture", ["bert", "albert", "t5", "llama", "deberta"])
@torch.inference_mode()
def test_an_exception_in_an_edit_leaves_nothing_behind(architecture: str) -> None:
    backbone = Backbone(tiny(config_of(architecture)))
    before, output = state_of(backbone.model), backbone.run(batch())["output"]

    def fail(_tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("in the edit")

    for site in backbone.layout.names:
        with pytest.raises(RuntimeError, match="in the edit"):
            backbone.run(batch(), ["output"], {site: fail})
        assert state_of(backbone.model) == before
        assert attention._current.attention is None
    assert torch.equal(backbone.run(batch())["output"], output)


@pytest.mark.parametrize("architecture", ["bert", "albert", "t5", "gpt2"])
@torch.inference_mode()
def test_threads_run_one_model_at_once(architecture: str) -> None:
    backbone = Backbone(tiny(config_of(architecture)))
    before = state_of(backbone.model)
    sites = ["layers.0.output", "layers.1.attention.heads", "layers.1.mlp.hidden"]
    jobs = [RaggedBatch(rows(seed)[: 1 + seed % 5]) for seed in range(24)]
    expected = [backbone.run(job, sites[: 1 + n % 3]) for n, job in enumerate(jobs)]
    wrong: list[int] = []

    def work(start: int) -> None:
        with torch.inference_mode():
            for number in range(start, len(jobs), 4):
                found = backbone.run(jobs[number], sites[: 1 + number % 3])
                same = found.keys() == expected[number].keys() and all(
                    torch.allclose(found[site], expected[number][site], atol=1e-5) for site in found
                )
                wrong.extend([] if same else [number])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert state_of(backbone.model) == before


def test_what_is_not_there_is_one_clear_error(minilm: Backbone) -> None:
    with pytest.raises(BackboneError, match=r"no site 'layers\.9\.output'; sites are embeddings, output"):
        minilm.run(batch(), ["layers.9.output"])
    with pytest.raises(BackboneError, match="no site 'attention'"):
        minilm.run(batch(), ["output"], {"attention": lambda tensor: tensor})
    for text in ("output", "output:median", ":mean", ""):
        with pytest.raises(BackboneError, match="is not a read; write SITE:POOLING"):
            Read.parse(text)
    assert Read.parse("layers.3.attention.heads:mean") == Read("layers.3.attention.heads", "mean")
    # Mixtures of experts have no one last projection, and DeBERTa's attention is its own.
    assert "layers.0.mlp.hidden" not in Backbone(tiny(config_of("mixtral"))).layout.names
    deberta = Backbone(tiny(config_of("deberta")))
    with pytest.raises(BackboneError, match=r"no site 'layers\.0\.attention\.heads'"):
        deberta.run(batch(), ["layers.0.attention.heads"])


@torch.inference_mode()
def test_a_vision_transformer_reads_its_patches() -> None:
    plain = tiny(copy.deepcopy(VIT))
    backbone = Backbone(copy.deepcopy(plain))
    assert backbone.vision
    pixels = torch.randn(3, 3, 8, 8)
    names = backbone.layout.names
    found = backbone.run(backbone.images(pixels), names)
    theirs = plain(pixel_values=pixels, output_hidden_states=True)
    close(found["embeddings"], theirs.hidden_states[0].flatten(0, 1))
    assert found["layers.1.attention.heads"].shape == (3 * 5, 4, 8)
    assert found["layers.1.mlp.hidden"].shape == (
        3 * 5,
        48 if VIT.intermediate_size == 48 else VIT.intermediate_size,
    )
    same = backbone.run(backbone.images(pixels), names, {site: lambda tensor: tensor for site in names})
    assert all(torch.equal(found[site], same[site]) for site in names)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "qwen3", "modernbert"])
@torch.inference_mode()
def test_outside_a_run_the_attention_is_transformers_own(architecture: str) -> None:
    plain = tiny(config_of(architecture))
    plain.set_attn_implementation("sdpa")
    ours = Backbone(copy.deepcopy(plain)).model
    assert ours.config._attn_implementation == attention.NAME
    ids = torch.randint(3, 97, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [1] * 4 + [0] * 5, [1] * 7 + [0] * 2])
    mine = ours(input_ids=ids, attention_mask=mask).last_hidden_state
    theirs = plain(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.equal(mine[mask.bool()], theirs[mask.bool()])


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
@torch.inference_mode()
def test_a_model_that_carries_the_attention_still_generates(architecture: str) -> None:
    config = config_of(architecture)
    torch.manual_seed(0)
    plain = hf.AutoModelForCausalLM.from_config(config).eval()
    plain.set_attn_implementation("sdpa")
    ours = copy.deepcopy(plain)
    backbone = Backbone(ours.base_model)
    ids = torch.tensor([[0, 0, 5, 6], [4, 5, 6, 7]])
    how = {
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
    }
    assert torch.equal(ours.generate(ids, **how), plain.generate(ids, **how))
    backbone.run(batch())
    assert torch.equal(ours.generate(ids, **how), plain.generate(ids, **how))
