"""ALPS: moved heads are found without data, and nothing but them is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy.stats import wasserstein_distance

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.pruning import pruned
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited, frozen
from taskheads.edits.maps import by_name
from taskheads.edits.weights.attention_weights import head_shifts, query_key_value, strongest, wasserstein
from taskheads.errors import ConfigError
from tests.edits.planted import backbone_of, stirred
from tests.edits.test_known_edits import ROWS, train

pytestmark = pytest.mark.method("alps_head_localization")
PLANTED = [(0, 1), (2, 0), (2, 3)]


def moved(backbone: Backbone, heads: list[tuple[int, int]]) -> Backbone:
    """A copy in which the queries, keys and values of these heads alone differ (width of a head: 8)."""
    tuned = Backbone(copy.deepcopy(backbone.model))
    torch.manual_seed(0)
    with torch.no_grad():
        for layer, head in heads:
            for name in query_key_value(tuned, layer):
                rows = tuned.model.get_submodule(name).weight[8 * head : 8 * head + 8]
                rows += 0.1 * torch.randn_like(rows)
    return tuned


def test_planted_heads_are_found_and_all_others_score_zero() -> None:
    backbone = backbone_of("bert")
    scores = head_shifts(backbone, moved(backbone, PLANTED))
    assert scores.shape == (3, 4)
    assert {(layer, head) for layer, head in scores.nonzero().tolist()} == set(PLANTED)
    assert strongest(scores, 3 / 12) == PLANTED


def test_under_grouped_keys_a_head_is_moved_with_its_group() -> None:
    backbone = backbone_of("llama")  # four heads, two of keys and values
    tuned = Backbone(copy.deepcopy(backbone.model))
    with torch.no_grad():
        tuned.model.layers[1].self_attn.k_proj.weight[8:16] += 0.1
        tuned.model.layers[1].self_attn.k_proj.weight[8, 0] += 1
    scores = head_shifts(backbone, tuned)
    assert scores.nonzero().tolist() == [[1, 2], [1, 3]]


def test_layers_of_a_pruned_backbone_have_the_heads_that_are_left() -> None:
    backbone = pruned(AttentionHeads(backbone_of("bert")), "0.1 0.3 2.0")
    planted = [(0, 1), (2, 0), (2, 2)]
    scores = head_shifts(backbone, moved(backbone, planted))
    assert scores.isnan().nonzero().tolist() == [[0, 2], [0, 3], [2, 3]]
    assert [*map(tuple, scores.nan_to_num().nonzero().tolist())] == planted
    assert strongest(scores, 3 / 9) == planted
    edit = made("alps_head_localization", backbone, ["first"], {"heads": [(0, 1), (1, 3)]})
    assert edit.scores(backbone).isnan().equal(scores.isnan())
    for layer, first in ((0, 8), (1, 24)):
        for name in query_key_value(backbone, layer):
            assert by_name(edit.maps)[name].rows.tolist() == [*range(first, first + 8)]


def test_the_distance_is_scipys() -> None:
    torch.manual_seed(0)
    first, second = (3 * torch.randn(2, 50).double()).softmax(1)
    places = torch.linspace(0, 1, 50, dtype=torch.float64)
    expected = wasserstein_distance(places, places, first, second)
    assert float(wasserstein(first, second)) == pytest.approx(expected, abs=1e-12)
    ends = torch.eye(50)[[0, 49]].double()
    assert float(wasserstein(ends[0], ends[1])) == pytest.approx(1)


def test_only_the_chosen_heads_are_trained() -> None:
    backbone = backbone_of("bert")
    edit = made("alps_head_localization", backbone, ["first"], {"heads": PLANTED})
    trained = sum(each.numel() for each in edit.parameters())
    assert trained == 3 / 12 * (3 * 3 * 32 * 32)  # the fraction of all queries', keys' and values' weights
    batch = RaggedBatch(ROWS)
    target = backbone.run(batch)["output"].detach().roll(1, 1)
    start = {name: each.clone() for name, each in backbone.model.state_dict().items()}
    train(
        Edited(backbone, {"first": edit}, "first"),
        edit,
        lambda edited: (edited.run(batch)["output"] - target).square().mean(),
        5,
    )
    after = start | edit.fold(backbone, "first")
    for name, weight in start.items():
        if not any(f"layer.{layer}.attention.self" in name and "weight" in name for layer in (0, 2)):
            assert torch.equal(after[name], weight)
            continue
        heads = [head for layer, head in PLANTED if f"layer.{layer}." in name]
        for head in range(4):
            rows = slice(8 * head, 8 * head + 8)
            assert torch.equal(after[name][rows], weight[rows]) == (head not in heads)


def test_the_first_stage_scores_what_it_learned_and_the_second_begins_anew() -> None:
    backbone = backbone_of("bert")
    edit = made("alps_head_localization", backbone, ["first"], {"share": 3 / 12})
    assert sum(each.numel() for each in edit.parameters()) == 3 * 3 * 32 * 32
    assert not edit.scores(backbone).any()
    tuned = moved(backbone, PLANTED)
    with torch.no_grad():
        for name, delta in by_name(edit.maps).items():
            difference = tuned.model.get_submodule(name).weight - backbone.model.get_submodule(name).weight
            delta.difference.copy_(difference)
    # W + (W' - W) is W' but for rounding.
    torch.testing.assert_close(edit.scores(backbone), head_shifts(backbone, tuned), rtol=1e-4, atol=1e-12)
    second = edit.following(backbone)
    assert second.options["heads"] == PLANTED
    assert not any(each.any() for each in second.parameters())
    assert second.following(backbone) is None


def test_the_head_whose_change_is_the_target_is_found_by_training() -> None:
    """The target is the backbone with one head moved. By gradient descent, whose steps are as large as a
    weight's share in the loss: those of Adam are as large everywhere."""
    backbone = backbone_of("bert")
    batch = RaggedBatch(ROWS)
    target = moved(backbone, [(1, 2)]).run(batch)["output"].detach()
    edit = made("alps_head_localization", backbone, ["first"], {"share": 1 / 12})
    edited = Edited(backbone, {"first": edit}, "first")
    optimizer = torch.optim.SGD(edit.parameters(), lr=0.3)
    with frozen(backbone):
        for _ in range(60):
            optimizer.zero_grad()
            (edited.run(batch)["output"] - target).square().mean().backward()
            optimizer.step()
    assert edit.following(backbone).options["heads"] == [(1, 2)]


def test_grouped_heads_are_trained_with_their_group() -> None:
    backbone = backbone_of("llama")
    edit = stirred(made("alps_head_localization", backbone, ["first"], {"heads": [(1, 3)]}))
    rows = {name.rpartition(".")[2]: delta.rows.tolist() for name, delta in by_name(edit.maps).items()}
    assert rows == {"q_proj": [*range(24, 32)], "k_proj": [*range(8, 16)], "v_proj": [*range(8, 16)]}


@pytest.mark.parametrize(
    ("architecture", "options", "said"),
    [("gpt2", {}, "layer 0 has h.0.attn.c_attn"), ("bert", {"heads": [(0, 4)]}, r"\(0, 4\)")],
)
def test_mistakes_are_named(architecture: str, options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made("alps_head_localization", backbone_of(architecture), ["first"], options)


def test_layers_that_share_their_weights_share_the_chosen_heads_rows() -> None:
    backbone = backbone_of("albert")
    edit = made("alps_head_localization", backbone, ["first"], {"heads": [(0, 1), (2, 3)]})
    assert [each.rows.tolist() for each in edit.maps.values()] == [[*range(8, 16), *range(24, 32)]] * 3
