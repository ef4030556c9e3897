"""Which heads, their weights, and what they add to the residual stream."""

from __future__ import annotations

import copy

import pytest
import torch

from taskheads.attention.alone import alone
from taskheads.attention.changing import edited
from taskheads.attention.estimating import attributed
from taskheads.attention.factored import Factored
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scanning import effects
from taskheads.attention.statistics import statistics
from taskheads.attention.which import AttentionHead, chosen_heads
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.hearing import Heard
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.composing import then
from taskheads.errors import BackboneError, ConfigError
from tests.backbone.models import CONFIGS, DEBERTA, VIT, tiny
from tests.backbone.test_sites import batch, close, state_of
from tests.backbone.test_sites import rows as rows_of_tokens

EVERY = list(CONFIGS)
PARTS = ("query", "key", "value", "scores", "pattern", "heads")


def backbone_of(architecture: str) -> Backbone:
    return Backbone(tiny(copy.deepcopy({**CONFIGS, "vit": VIT, "deberta": DEBERTA}[architecture])))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("1.2", [(1, 2)]),
        ("1.2, 0.3 1.2", [(0, 3), (1, 2)]),
        ("1.*", [(1, 0), (1, 1), (1, 2)]),
        ("*.3", [(0, 3)]),
        ("0.1-2", [(0, 1), (0, 2)]),
        ([(1, 0), (0, 0)], [(0, 0), (1, 0)]),
        (torch.tensor([[False, False, True, False], [True, False, False, False]]), [(0, 2), (1, 0)]),
        ("all", [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2)]),
    ],
)
def test_these_heads(said: object, meant: list[tuple[int, int]]) -> None:
    assert list(chosen_heads(said, (4, 3))) == meant  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "said", ["3", "1.x", "2.0", "2.*", "1.3", "0.2-4", [(0, -1)], torch.ones(2, 3, dtype=torch.bool)]
)
def test_heads_that_are_not_there(said: object) -> None:
    with pytest.raises(ConfigError):
        chosen_heads(said, (4, 3))  # type: ignore[arg-type]


def test_a_head_is_written_as_it_is_read() -> None:
    assert str(AttentionHead(3, 7)) == "3.7"


@pytest.mark.parametrize("architecture", [*EVERY, "vit"])
@torch.inference_mode()
def test_heads_and_bias_sum_to_the_block_of_attention(architecture: str) -> None:
    backbone = backbone_of(architecture)
    heads = AttentionHeads(backbone)
    rows = backbone.images(torch.randn(2, 3, 8, 8)) if architecture == "vit" else batch()
    names = [maps.attention_output for maps in backbone.layout.maps]
    heard = Heard(list(dict.fromkeys(names)))
    sites = [f"layers.{layer}.attention.heads" for layer in range(3)]
    found = backbone.run(rows, [*sites, "output"], heard.changes)
    outputs = [iter(heard.outputs[name]) for name in dict.fromkeys(names)]
    for layer, site in enumerate(sites):
        whole = next(outputs[layer % len(outputs)])
        close(heads.contributions(layer, found[site]).sum(1) + heads.output_bias(layer), whole)
        some = heads.contributions(layer, found[site], [2, 0])
        close(some, heads.contributions(layer, found[site])[:, [2, 0]])


def test_a_backbone_whose_heads_do_not_add_up_is_refused() -> None:
    backbone = backbone_of("gpt2")
    name = backbone.layout.maps[1].attention_output
    hook = backbone.model.get_submodule(name).register_forward_hook(lambda _m, _i, output: output * 1.01)
    with pytest.raises(BackboneError, match="layer 1"):
        AttentionHeads(backbone)
    hook.remove()
    AttentionHeads(backbone)
    with pytest.raises(BackboneError, match="cannot be reached"):
        AttentionHeads(backbone_of("deberta"))


@pytest.mark.parametrize("architecture", [*EVERY, "vit"])
def test_a_model_that_is_attached_is_not_copied_and_answers_as_before(architecture: str) -> None:
    model = backbone_of(architecture).model
    plain = type(model)(model.config).eval()
    plain.load_state_dict(model.state_dict())
    plain.set_attn_implementation("sdpa")
    given = torch.randn(2, 3, 8, 8) if architecture == "vit" else rows_of_tokens()[0].ids[None]
    with torch.no_grad():
        before = plain(torch.as_tensor(given)).last_hidden_state
        weights = {name: each.data_ptr() for name, each in plain.state_dict().items()}
        heads = AttentionHeads(Backbone(plain))
        assert heads.backbone.model is plain
        assert {name: each.data_ptr() for name, each in plain.state_dict().items()} == weights
        assert torch.equal(plain(torch.as_tensor(given)).last_hidden_state, before)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "albert"])
@torch.inference_mode()
def test_whatever_fails_inside_a_pass_leaves_all_as_it_was(architecture: str) -> None:
    backbone = backbone_of(architecture)
    heads = AttentionHeads(backbone)

    def fail(*_: object) -> torch.Tensor:
        raise ZeroDivisionError

    before, outputs = state_of(backbone.model), backbone.run(batch())["output"]
    for work in (
        *(
            lambda part=part: backbone.run(batch(), changes=edited([(1, 1)], fail, part=part))
            for part in PARTS
        ),
        lambda: statistics(heads, [batch()], {"failing": fail}),
        lambda: effects(heads, batch(), fail),
        lambda: alone(heads, batch(), lambda vectors: vectors.sum(-1), lambda _: edited([(2, 0)], fail)),
        lambda: attributed(heads, batch(), fail),
    ):
        with pytest.raises(ZeroDivisionError):
            work()
        assert state_of(backbone.model) == before
        assert torch.equal(backbone.run(batch())["output"], outputs)
    assert all(each.requires_grad and each.grad is None for each in backbone.model.parameters())


@pytest.mark.parametrize("architecture", EVERY)
@torch.inference_mode()
def test_queries_keys_and_values_are_what_attention_receives(architecture: str) -> None:
    backbone = backbone_of(architecture)
    heads = AttentionHeads(backbone)
    rows = batch()
    names = [maps.attention[0] for maps in backbone.layout.maps]
    heard = Heard(list(dict.fromkeys(names)))
    sites = [f"layers.1.attention.{part}" for part in ("query", "key", "value")]
    found = backbone.run(rows, [*sites, "output"], heard.changes)
    heard_inputs = [each for name in heard.inputs for each in heard.inputs[name]]
    for site, part in zip(sites, (heads.query, heads.key, heads.value), strict=True):
        if architecture == "qwen3" and not site.endswith("value"):
            with pytest.raises(BackboneError, match="more than a linear map"):
                part(1)
            continue
        weight, bias = part(1)
        mine = torch.einsum("nd,hdw->nhw", heard_inputs[1], weight) + bias
        # Rotary positions turn queries and keys, but not those of the first token.
        at = slice(None) if site.endswith("value") else rows.starts
        close(mine[at], found[site][at])


@torch.inference_mode()
def test_qk_and_ov_are_the_heads_scores_and_moves() -> None:
    backbone = backbone_of("gpt2")
    heads = AttentionHeads(backbone)
    for layer in range(3):  # biases are no part of the two matrices
        backbone.model.h[layer].attn.c_attn.bias.zero_()
    rows = RaggedBatch(batch_rows := rows_of_tokens())
    name = backbone.layout.maps[1].attention[0]
    heard = Heard([name])
    wanted = ["layers.1.attention.scores", "layers.1.attention.pattern", "layers.1.attention.heads", "output"]
    found = backbone.run(rows, wanted, heard.changes)
    x = heard.inputs[name][0].split(rows.lengths)
    for row, (mine, scores, pattern, z) in enumerate(
        zip(x, *(found[site].split(rows.lengths) for site in wanted[:3]), strict=True)
    ):
        length = len(batch_rows[row])
        allowed = torch.ones(length, length, dtype=torch.bool).tril()
        qk, ov = heads.qk(1, 3), heads.ov(1, 3)
        close((mine @ qk.left @ qk.right @ mine.T * 8**-0.5)[allowed], scores[:, 3, :length][allowed])
        close(pattern[:, 3, :length] @ mine @ ov.dense(), heads.contributions(1, z)[:, 3])


def test_a_factored_matrix_is_its_product() -> None:
    torch.manual_seed(0)
    made = Factored(torch.randn(2, 20, 3).double(), torch.randn(2, 3, 20).double())
    other = Factored(torch.randn(2, 20, 4).double(), torch.randn(2, 4, 7).double())
    dense = made.dense()
    u, s, v = made.svd()
    close(u * s[:, None] @ v.mT, dense)
    close(s, torch.linalg.svdvals(dense)[:, :3])
    close(made.norm(), torch.linalg.matrix_norm(dense))
    close((made @ other).dense(), dense @ other.dense())
    close(made.T.dense(), dense.mT)
    theirs = torch.linalg.eigvals(dense).abs().sort(descending=True)[0][:, :3]
    close(made.eigenvalues().abs().sort(descending=True)[0], theirs)


def test_reading_composes_with_other_changes_and_changes_nothing() -> None:
    backbone = backbone_of("llama")
    heard = Heard([backbone.layout.maps[0].attention_output])
    plain = backbone.run(batch())["output"]
    twice = then(heard.changes, heard.changes)
    assert torch.equal(backbone.run(batch(), changes=twice)["output"], plain)
    assert len(heard.inputs[backbone.layout.maps[0].attention_output]) == 2
