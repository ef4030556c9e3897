"""Statistics of patterns, direct logits, and the scores that they come as."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from taskheads.attention import statistics as of
from taskheads.attention.direct import DirectLogits
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.planted import plant, prompts
from taskheads.attention.scores import HeadScores, Mean
from taskheads.attention.where import At
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.generating import language_model
from taskheads.backbone.patterns import Seen
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import BackboneError, ModelError
from tests.attention.test_heads import backbone_of
from tests.backbone.models import CONFIGS, tiny
from tests.backbone.test_sites import batch, close

ARCHITECTURES = ["bert", "gpt2", "llama"]


def eager_patterns(architecture: str, rows: list[Encoded]) -> list[list[torch.Tensor]]:
    """For each row and layer the whole pattern [heads, queries, keys]."""
    plain = tiny(copy.deepcopy(CONFIGS[architecture]))
    plain.set_attn_implementation("eager")
    with torch.inference_mode():
        made = [plain(input_ids=torch.from_numpy(row.ids)[None], output_attentions=True) for row in rows]
    return [[layer[0] for layer in each.attentions] for each in made]


def rows_with_repeats() -> list[Encoded]:
    draw = np.random.default_rng(3)
    return [Encoded(draw.integers(3, 9, length)) for length in (6, 9, 2, 9)]


def by_hand(name: str, pattern: torch.Tensor, ids: np.ndarray, causal: bool) -> torch.Tensor:
    """The statistic [heads] of one row, from its whole pattern."""
    n = pattern.shape[1]
    q, k = torch.arange(n)[:, None], torch.arange(n)[None]
    ids = torch.from_numpy(ids)
    if name == "previous":
        return pattern.diagonal(-1, 1, 2).mean(-1)
    if name == "first":
        return pattern[:, 1:, 0].mean(-1)
    if name == "entropy":
        return -torch.special.xlogy(pattern, pattern).sum(-1).mean(-1)
    if name == "distance":
        return (pattern * (q - k).abs()).sum(-1).mean(-1)
    if name == "tokens":
        return pattern[:, :, (ids == 4) | (ids == 5)].sum(-1).mean(-1)
    alike = (ids[:, None] == ids[None]) & (k < q if causal else q != k)
    return (pattern * alike).sum(-1)[:, alike.any(1)].mean(-1)


WANTED = {
    "previous": of.to_offset(-1),
    "first": of.to_first,
    "entropy": of.entropy,
    "distance": of.distance,
    "tokens": of.to_tokens([4, 5]),
    "alike": of.to_alike,
}


@pytest.mark.parametrize("pieces", [1 << 19, 90])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_statistics_are_those_of_whole_patterns(
    architecture: str, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskheads.backbone import patterns

    monkeypatch.setattr(patterns, "_AT_ONCE", pieces)
    rows = rows_with_repeats()
    heads = AttentionHeads(backbone_of(architecture))
    found = of.statistics(heads, heads.backbone.batches(rows, 12), WANTED)
    theirs = eager_patterns(architecture, rows)
    for name, scores in found.items():
        each = torch.stack(
            [
                torch.stack([by_hand(name, pattern, row.ids, heads.backbone.causal) for pattern in layers])
                for row, layers in zip(rows, theirs, strict=True)
            ]
        )
        # A row without two tokens alike says nothing about them.
        each = each[~each.isnan().flatten(1).any(1)]
        assert scores.manifest["n"] == len(each)
        close(scores.values, each.mean(0))
        close(scores.error, each.std(0) / len(each) ** 0.5)


def test_statistics_of_chosen_layers_end_there() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    ran: list[int] = []
    heads.backbone.model.h[2].register_forward_hook(lambda *_: ran.append(2))
    found = of.statistics(heads, [batch()], {"first": of.to_first}, layers=[1])["first"]
    assert not ran
    assert found.values[[0, 2]].isnan().all()
    assert not found.values[1].isnan().any()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_the_planted_head_for_the_previous_token_stands_out(architecture: str) -> None:
    planted = plant(architecture, ["previous"])  # type: ignore[arg-type]
    heads = AttentionHeads(planted.backbone)
    rows = planted.backbone.batches(prompts("previous", 6).rows)
    scores = of.statistics(heads, rows, {"previous": of.to_offset(-1)})["previous"]
    assert scores.above(0.9) == (planted.heads["previous"],)
    none = AttentionHeads(plant(architecture, []).backbone)  # type: ignore[arg-type]
    rows = none.backbone.batches(prompts("previous", 6).rows)
    assert not of.statistics(none, rows, {"previous": of.to_offset(-1)})["previous"].above(0.5)


def test_marked_keys_and_single_ones() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    rows = batch()
    marked = At([0, 1]).tokens(rows)
    patterns: list[Seen] = []
    found = of.statistics(heads, [rows], {"marked": of.to_keys(marked), "first": of.to_first})
    assert not patterns
    one = of.statistics(heads, [rows], {"marked": of.to_keys(At([0]).tokens(rows))})
    assert (found["marked"].values >= one["marked"].values - 1e-6).all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "qwen3"])
@torch.inference_mode()
def test_direct_logits_sum_to_the_logits(architecture: str) -> None:
    import transformers as hf

    config = copy.deepcopy(CONFIGS[architecture])
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    backbone, head = language_model(model)
    heads = AttentionHeads(backbone)
    rows = batch()
    last = At([-1]).tokens(rows)
    found = DirectLogits(heads)(rows, head.weight[[5, 9]], last)
    logits = head(backbone.run(rows)["output"][last])[:, [5, 9]]
    close(found.total, logits)
    assert found.heads.shape == (5, 3, 4, 2)
    # The parts are those of the heads: without one, the sum before the norm lacks just that.
    own = DirectLogits(heads)(rows, head.weight[[5]] - head.weight[[9]], last)
    close(own.heads[..., 0], found.heads[..., 0] - found.heads[..., 1])


@torch.inference_mode()
def test_direct_logits_find_the_planted_head() -> None:
    planted = plant("llama", ["context", "memory"])
    heads, asked = AttentionHeads(planted.backbone), prompts("context", 6)
    rows = RaggedBatch(asked.rows)
    weight = planted.head.weight
    difference = weight[asked.answers] - weight[asked.others]
    found = DirectLogits(heads)(rows, difference[:, None], At([-1]).tokens(rows))
    scores = HeadScores.of(found.heads[..., 0].mean(0))
    assert scores.top(1) == (planted.heads["context"],)
    assert scores.top(1, smallest=True) == (planted.heads["memory"],)


def test_direct_logits_refuse_a_stream_that_is_normed_after_adding() -> None:
    with pytest.raises(BackboneError, match="no plain sum"):
        DirectLogits(AttentionHeads(backbone_of("bert")))
    gpt2 = backbone_of("gpt2")
    gpt2.model.ln_f.register_forward_hook(lambda _m, _i, output: output.tanh())
    with pytest.raises(BackboneError, match="no norm of a known kind"):
        DirectLogits(AttentionHeads(Backbone(gpt2.model)))


def test_scores_are_ranked_kept_and_compared(tmp_path: Path) -> None:
    values = torch.tensor([[1.0, 3.0, torch.nan], [2.0, 3.0, 0.0]])
    scores = HeadScores.of(values, model="m", seed=3)
    assert scores.top(2) == ((0, 1), (1, 1))
    assert scores.top(9, smallest=True)[0] == (1, 2)
    assert len(scores.top(9)) == 5
    assert scores.above(1.5) == ((0, 1), (1, 1), (1, 0))
    assert scores.rank_correlation(HeadScores.of(-values)) == pytest.approx(-1)
    both = HeadScores.stacked({"a": scores, "b": HeadScores.of(values * 2)}, data="d")
    both.save(tmp_path / "s.safetensors")
    again = HeadScores.load(tmp_path / "s.safetensors")
    assert torch.equal(again.values.nan_to_num(), both.values.nan_to_num())
    assert (again.tasks, again.manifest) == (("a", "b"), both.manifest)
    assert again.of_task("a").manifest == {"model": "m", "seed": 3}
    (tmp_path / "other").write_bytes(b"no")
    with pytest.raises(ModelError, match="holds no scores"):
        HeadScores.load(tmp_path / "other")


def test_means_come_batch_by_batch() -> None:
    torch.manual_seed(0)
    rows = torch.randn(11, 2, 3) + 1e4
    rows[4, 1, 2] = torch.nan
    mean = Mean((2, 3))
    for part in rows.split([3, 1, 7]):
        mean.add(part)
    scores = mean.scores()
    close(scores.values, rows.nanmean(0))
    exact = rows[:, 0].double()
    close(scores.error[0].double(), exact.std(0) / 11**0.5)
    left = rows[[r for r in range(11) if r != 4], 1, 2].double()
    close(scores.error[1, 2].double(), left.std() / 10**0.5)
