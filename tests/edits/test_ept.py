from __future__ import annotations

from typing import Any

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.generating import generate, language_model
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited, frozen
from taskheads.edits.prompts.ept import PromptFusion
from taskheads.errors import ConfigError
from tests.backbone.test_generating import decoder
from tests.backbone.test_sites import rows
from tests.edits.planted import backbone_of, stirred

pytestmark = pytest.mark.method("ept_prompt_fusion")
both = pytest.mark.parametrize("architecture", ["bert", "llama"])


def fusion(backbone: Backbone, **options: Any) -> PromptFusion:
    edit = made("ept_prompt_fusion", backbone, ["task"], options)
    assert isinstance(edit, PromptFusion)
    return edit


def output(backbone: Backbone, edit: Any) -> torch.Tensor:
    return Edited(backbone, {"task": edit}, "task").run(RaggedBatch(rows()))["output"]


@both
def test_without_difference_fusion_and_spaces_it_is_prompt_tuning(architecture: str) -> None:
    backbone = backbone_of(architecture)
    edit = fusion(backbone, length=3, spaces=1)
    plain = stirred(made("prompt_tuning", backbone, ["task"], {"length": 3}))
    edit.prompt.data.copy_(plain.prompt)
    assert torch.equal(output(backbone, edit), output(backbone, plain))


def test_the_gates_weights_sum_to_one_and_choose() -> None:
    edit = stirred(fusion(backbone_of("bert"), spaces=4), by=1.0)
    assert isinstance(edit, PromptFusion)
    fused = edit.fused()
    weights = edit.spaces.weights(fused)
    assert weights.shape == (4,)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    assert weights.std() > 0.05
    by_hand = sum(
        weight * (fused + fused @ down @ up)
        for weight, down, up in zip(weights, edit.spaces.down, edit.spaces.up, strict=True)
    )
    torch.testing.assert_close(edit.spaces(fused), by_hand)


@both
def test_a_row_grows_by_the_short_prompt_and_its_first_tokens_move(architecture: str) -> None:
    backbone = backbone_of(architecture)
    edit = stirred(fusion(backbone, length=2, positions=4, rank=3))
    seen: dict[str, torch.Tensor] = {}

    def kept(tensor: torch.Tensor) -> torch.Tensor:
        seen["tokens"] = tensor
        return tensor

    mixed = RaggedBatch([*rows(), *rows(1)], tasks=[("task", 5), ("other", 5)])
    Edited(backbone, {"task": edit}).run(mixed, ("embeddings",), Changes({"embeddings": kept}))
    lengths = [len(row) for row in rows()]
    assert len(seen["tokens"]) == sum(lengths) + 2 * len(lengths) + sum(lengths)
    # What the words' table gives, plus A B at the first four places of each row.
    found = Edited(backbone, {"task": edit}, "task").run(RaggedBatch(rows()), ("tokens",))["tokens"]
    assert backbone.layout.words is not None
    for row, mine in zip(rows(), found.split(lengths), strict=True):
        moved = backbone.layout.words(torch.from_numpy(row.ids))
        moved[:4] += (edit.down @ edit.up)[: len(row)]  # type: ignore[operator]
        torch.testing.assert_close(mine, moved)


def test_only_the_edit_learns() -> None:
    backbone = backbone_of("llama")
    edit = stirred(fusion(backbone))
    with frozen(backbone):
        output(backbone, edit).square().sum().backward()
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in edit.parameters())


@torch.inference_mode()
def test_generated_tokens_have_nothing_added() -> None:
    backbone, head = language_model(decoder("llama"))
    edit = stirred(fusion(backbone, length=2), by=0.3)
    edited = Edited(backbone, {"task": edit}, "task")
    answers = generate(edited, head, RaggedBatch(rows()), most=5)
    own = edit.own("task", [])
    for row, answer in zip(rows(), answers, strict=True):
        ids = row.ids.tolist()
        for token in answer:
            embedded = backbone.layout.words(torch.tensor([0, 0, *ids]))  # type: ignore[misc]
            embedded[:2] = own.prompt
            embedded[2 : 2 + len(row)] += (edit.down @ edit.up)[: len(row)]  # type: ignore[operator]
            ids_with_room = Encoded(torch.tensor([0, 0, *ids]).numpy())
            found = backbone.run(RaggedBatch([ids_with_room]), changes={"tokens": lambda _x, e=embedded: e})
            assert int(head(found["output"][-1]).argmax()) == token
            ids.append(token)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="length = 0"):
        fusion(backbone_of("bert"), length=0)
