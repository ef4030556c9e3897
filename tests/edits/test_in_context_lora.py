"""In-Context LoRA: panels, what attention across them carries, and LoRAs switched without a trace."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited, frozen
from taskheads.edits.low_rank.in_context_lora import image_panel, panel
from taskheads.errors import DataError
from tests.backbone.models import CONFIGS, tiny
from tests.edits.planted import TASKS, backbone_of, batch_of, edits_of, rows_of
from tests.edits.test_known_edits import ROWS, outputs

pytestmark = pytest.mark.method("in_context_lora")


@torch.inference_mode()
def test_merged_it_is_the_same_and_switching_restores_every_bit() -> None:
    backbone = backbone_of("bert")
    edits = edits_of(backbone, "in_context_lora")
    edited = Edited(backbone, edits)
    plain = backbone.run(RaggedBatch(ROWS))["output"]
    first = {task: edited.run(batch_of({task: ROWS}))["output"] for task in TASKS}
    for task in reversed(TASKS):
        assert torch.equal(edited.run(batch_of({task: ROWS}))["output"], first[task])
    assert torch.equal(backbone.run(RaggedBatch(ROWS))["output"], plain)
    assert len({float(each.sum()) for each in first.values()}) == len(TASKS)
    weights = backbone.model.state_dict()
    for name, weight in edits["second"].fold(backbone, "second").items():
        weights[name].copy_(weight)
    torch.testing.assert_close(
        backbone.run(RaggedBatch(ROWS))["output"], first["second"], rtol=1e-5, atol=1e-5
    )


def test_a_panel_is_its_rows_end_to_end() -> None:
    first = Encoded(np.array([5, 6, 7]), None, np.array([0, 2]))
    second = Encoded(np.array([8, 9]), np.array([1, 1]), np.array([-1, 1]))
    joined = panel([first, second])
    assert joined.ids.tolist() == [5, 6, 7, 8, 9]
    assert joined.segments.tolist() == [0, 0, 0, 1, 1]
    assert joined.words.tolist() == [0, 2, -1, 4]
    assert panel([second, Encoded(np.array([4]))]).words is None
    with pytest.raises(DataError, match="one row"):
        panel([])


def test_images_stand_side_by_side() -> None:
    images = torch.arange(6 * 3 * 2 * 4).view(6, 3, 2, 4)
    joined = image_panel(images, columns=3)
    assert joined.shape == (3, 4, 12)
    for k in range(6):
        line, column = divmod(k, 3)
        part = joined[:, 2 * line : 2 * line + 2, 4 * column : 4 * column + 4]
        assert torch.equal(part, images[k])
    with pytest.raises(DataError, match="do not fill"):
        image_panel(images, columns=4)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@torch.inference_mode()
def test_rows_of_their_own_are_the_panel_under_a_block_diagonal_mask(architecture: str) -> None:
    config = copy.deepcopy(CONFIGS[architecture])
    model = tiny(config)
    model.set_attn_implementation("eager")
    chosen = rows_of()["first"][:3]
    joined = panel(chosen)
    sizes = [len(row) for row in chosen]
    mask = torch.block_diag(*(torch.ones(size, size).tril() for size in sizes))
    if architecture == "qwen3":  # all but the first layer look four tokens back
        mask = mask * torch.ones_like(mask).triu(-(config.sliding_window - 1))
        config.layer_types = ["sliding_attention"] * 3
        model = tiny(copy.deepcopy(config))
        model.set_attn_implementation("eager")
    bias = torch.zeros_like(mask).masked_fill(mask == 0, torch.finfo(torch.float32).min)[None, None]
    masks = {"full_attention": bias, "sliding_attention": bias} if architecture == "qwen3" else bias
    theirs = model(
        input_ids=torch.from_numpy(joined.ids)[None],
        position_ids=torch.arange(len(joined))[None],
        attention_mask=masks,
    ).last_hidden_state[0]
    backbone = Backbone(tiny(copy.deepcopy(config)))
    apart = backbone.run(RaggedBatch(chosen))["output"]
    torch.testing.assert_close(apart, theirs, rtol=1e-4, atol=1e-5)
    together = backbone.run(RaggedBatch([joined]))["output"]
    assert (together - apart).abs().max() > 1e-2


def test_what_the_panels_agree_on_is_lost_when_attention_between_them_is_cut() -> None:
    """Panels of two: the first shows one of four kinds, the second is blank and must be filled in kind."""
    backbone = backbone_of("bert")
    generator = np.random.default_rng(0)
    blank = Encoded(np.full(3, 4))

    def drawn(count: int) -> tuple[list[Encoded], torch.Tensor]:
        kinds = generator.integers(0, 4, count)
        return [Encoded(10 + 4 * generator.integers(0, 8, 4) + kind) for kind in kinds], torch.from_numpy(
            kinds
        )

    torch.manual_seed(0)
    edit = made("in_context_lora", backbone, ["fill"])
    head = torch.nn.Linear(32, 4)
    edited = Edited(backbone, {"fill": edit}, "fill")

    def filled(shown: list[Encoded], *, cut: bool) -> torch.Tensor:
        """Logits of the second panel's last token, [panels, 4]."""
        parts = [[first, blank] for first in shown]
        rows = [row for pair in parts for row in pair] if cut else [panel(pair) for pair in parts]
        found = edited.run(RaggedBatch(rows))["output"].split([len(first) + 3 for first in shown])
        return head(torch.stack([each[-1] for each in found]))

    optimizer = torch.optim.Adam([*edit.parameters(), *head.parameters()], lr=5e-3)
    with frozen(backbone):
        for _ in range(80):
            optimizer.zero_grad()
            shown, kinds = drawn(48)
            torch.nn.functional.cross_entropy(filled(shown, cut=False), kinds).backward()
            optimizer.step()
    shown, kinds = drawn(200)
    with torch.no_grad():
        whole, apart = (
            float((filled(shown, cut=cut).argmax(1) == kinds).float().mean()) for cut in (False, True)
        )
    independent = float(kinds.bincount().max() / len(kinds))
    assert whole > 0.9
    assert apart <= independent


def test_by_default_it_stands_on_all_of_attention() -> None:
    edit = made("in_context_lora", backbone_of("bert"), ["first"])
    assert sum(each.numel() for each in edit.parameters()) == 3 * 4 * 16 * (32 + 32)
    assert outputs(backbone_of("bert"), edit).shape[1] == 32
