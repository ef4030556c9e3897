"""Generation with kept keys and values is what transformers generates, and what no cache at all generates."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.generating import Kept, generate, language_model
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.edit import Edit, made
from taskheads.edits.edited import Edited
from taskheads.errors import BackboneError
from tests.backbone.models import CONFIGS, tiny
from tests.backbone.test_sites import rows
from tests.edits.planted import batch_of, rows_of, stirred

DECODERS = ["llama", "gpt2", "qwen3", "gpt_neox"]
every_decoder = pytest.mark.parametrize("architecture", DECODERS)
MOST = 12


def decoder(architecture: str, seed: int = 0) -> Any:
    """A tiny model whose next tokens vary."""
    torch.manual_seed(seed)
    config = copy.deepcopy(CONFIGS[architecture])
    config.tie_word_embeddings = False  # or a token follows itself
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config = hf.GenerationConfig(pad_token_id=0)
    return model


def theirs(model: Any, row: Encoded, **how: Any) -> list[int]:
    ids = torch.from_numpy(row.ids)[None]
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=MOST, **how
    )[0, len(row) :].tolist()


@torch.inference_mode()
def by_force(backbone: Backbone, head: nn.Module, row: Encoded, most: int = MOST) -> list[int]:
    """Greedy generation that runs the whole text again for every token."""
    ids = row.ids.tolist()
    for _ in range(most):
        output = backbone.run(RaggedBatch([Encoded(np.array(ids))]))["output"]
        ids.append(int(head(output[-1]).argmax()))
    return ids[len(row) :]


@every_decoder
def test_it_is_what_transformers_generates(architecture: str) -> None:
    model = decoder(architecture)
    backbone, head = language_model(copy.deepcopy(model))
    found = generate(backbone, head, RaggedBatch(rows()), most=MOST)
    expected = [theirs(model, row) for row in rows()]
    assert found == expected
    assert len({token for answer in found for token in answer}) > 5  # else it says little
    # A row ends before what stops it, and the others go on.
    stop = expected[2][4]
    cut = [answer[: answer.index(stop)] if stop in answer else answer for answer in expected]
    assert generate(backbone, head, RaggedBatch(rows()), most=MOST, stop=[stop]) == cut
    assert theirs(model, rows()[2], eos_token_id=stop) == [*cut[2], stop]


def test_a_row_goes_through_once_and_then_a_token_a_step() -> None:
    backbone, head = language_model(decoder("llama"))
    sizes: list[list[int]] = []

    class Counting(Backbone):
        def __init__(self) -> None:
            self.__dict__.update(backbone.__dict__)

        def run(self, batch: Any, *given: Any) -> dict[str, torch.Tensor]:
            sizes.append(batch.lengths)
            return backbone.run(batch, *given)

    full = generate(backbone, head, RaggedBatch(rows()), most=4)
    stop = full[0][1]
    found = generate(Counting(), head, RaggedBatch(rows()), most=4, stop=[stop])
    lived = [sum(len(answer) >= step for answer in found) for step in (1, 2, 3)]
    assert sizes == [[len(row) for row in rows()], *([1] * count for count in lived)]


def edits_for(backbone: Backbone) -> dict[str, Edit]:
    methods: dict[str, tuple[str, dict[str, Any]]] = {
        "first": ("lora", {"targets": "all"}),
        # As many as some rows of other tasks are longer: those stand in one group in attention.
        "second": ("prefix", {"length": 4}),
        "third": ("prompt_tuning", {"length": 2}),
        "fourth": ("prefix", {"length": 5}),
        "fifth": ("pfeiffer", {}),
    }
    return {
        task: stirred(made(method, backbone, [task], options), seed, by=0.3)
        for seed, (task, (method, options)) in enumerate(methods.items())
    }


@every_decoder
@pytest.mark.method("lora", "prefix", "prompt_tuning", "pfeiffer")
def test_mixed_edits_generate_as_each_does_alone_without_a_cache(architecture: str) -> None:
    backbone, head = language_model(decoder(architecture))
    edited = Edited(backbone, edits_for(backbone))
    chosen = {task: some[:3] for task, some in rows_of([*edited.edits, "unedited"]).items()}
    expected = {
        task: [by_force(edited.of(task), head, row, 5) for row in some] for task, some in chosen.items()
    }
    together = generate(edited, head, batch_of(chosen), most=5)
    assert together == [answer for some in expected.values() for answer in some]
    for task in ("second", "third"):
        assert generate(edited.of(task), head, RaggedBatch(chosen[task]), most=5) == expected[task]
    plain = [[by_force(backbone, head, row, 5) for row in some] for some in chosen.values()]
    changed = [mine != other for mine, other in zip(expected.values(), plain, strict=True)]
    assert changed == [True] * 5 + [False]


def test_one_task_with_a_prefix_and_a_prompt_at_once() -> None:
    backbone, head = language_model(decoder("llama"))

    class Both(Edit):
        def __init__(self) -> None:
            super().__init__(["task"])
            self.parts = nn.ModuleList([edits_for(backbone)["second"], edits_for(backbone)["third"]])

        def own(self, task: str, lengths: Sequence[int]) -> Any:
            prefix, prompt = (part.own(task, lengths) for part in self.parts)
            return type(prefix)(prompt=prompt.prompt, past=prefix.past)

    edited = Edited(backbone, {"task": Both()}, "task")
    expected = [by_force(edited, head, row) for row in rows()]
    assert generate(edited, head, RaggedBatch(rows()), most=MOST) == expected


@torch.inference_mode()
def test_what_is_kept_gives_the_same_last_hidden_states() -> None:
    backbone, _ = language_model(decoder("qwen3"))
    whole = backbone.run(RaggedBatch(rows()))["output"].split([len(row) for row in rows()])
    long = [number for number, row in enumerate(rows()) if len(row) > 2]
    cut = [Encoded(rows()[number].ids[:-2]) for number in long]
    kept = Kept([len(row) for row in cut], 2)
    found = backbone.run(RaggedBatch(cut), ("output",), kept.changes(3))["output"]
    torch.testing.assert_close(
        found, torch.cat([whole[number][:-2] for number in long]), rtol=1e-5, atol=1e-5
    )
    for back in (2, 1):
        kept.advance(range(len(long)))
        token = RaggedBatch([Encoded(rows()[number].ids[-back:][:1]) for number in long])
        found = backbone.run(token, ("output",), kept.changes(3))["output"]
        expected = torch.stack([whole[number][-back] for number in long])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_only_what_is_allowed_is_chosen() -> None:
    backbone, head = language_model(decoder("llama"))
    batch = RaggedBatch(rows())

    def allowed(row: int, so_far: Sequence[int]) -> list[int] | None:
        if row == 1:
            return None
        return [] if len(so_far) == row else [10 + row, 20 + len(so_far)]

    found = generate(backbone, head, batch, most=MOST, allowed=allowed)
    assert found[1] == generate(backbone, head, batch, most=MOST)[1]
    for row in (0, 2, 3, 4):
        assert len(found[row]) == row
        assert all(token in (10 + row, 20 + step) for step, token in enumerate(found[row]))
    # Greedy within what is allowed: as brute force chooses.
    ids = [*rows()[4].ids]
    for step, token in enumerate(found[4]):
        logits = head(backbone.run(RaggedBatch([Encoded(np.array(ids))]))["output"][-1])
        assert token == max((14, 20 + step), key=lambda each: logits[each])
        ids.append(token)


def test_what_cannot_go_on_says_so() -> None:
    backbone, head = language_model(decoder("llama"))
    with pytest.raises(BackboneError, match="row 1 has no token"):
        generate(backbone, head, RaggedBatch([Encoded(np.array([3])), Encoded(np.array([], int))]), most=1)
    encoder = Backbone(tiny(copy.deepcopy(CONFIGS["bert"])))
    with pytest.raises(BackboneError, match="is no decoder"):
        generate(encoder, head, RaggedBatch(rows()), most=1)
    with pytest.raises(BackboneError, match="has no language head"):
        language_model(tiny(copy.deepcopy(CONFIGS["llama"])))
    with pytest.raises(BackboneError, match="no such folder"):
        language_model("./nowhere")


def test_a_language_model_of_a_folder(tmp_path: Any) -> None:
    from tests.backbone.tokenizers import byte_level

    config = copy.deepcopy(CONFIGS["llama"])
    config.vocab_size = 330
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    byte_level().save_pretrained(tmp_path)
    backbone, head = language_model(tmp_path)
    assert backbone.tokens is not None
    model.generation_config = hf.GenerationConfig(pad_token_id=0)
    assert generate(backbone, head, RaggedBatch(rows()), most=MOST)[2] == theirs(model, rows()[2])


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_of_a_pruned_folder(tied: bool, tmp_path: Any) -> None:
    """Of the body alone, whose configuration says what was cut: whole where the head is tied to it."""
    from taskheads.attention.heads import AttentionHeads
    from taskheads.attention.pruning import pruned
    from tests.backbone.tokenizers import byte_level

    config = copy.deepcopy(CONFIGS["gpt2"])
    config.vocab_size, config.tie_word_embeddings = 330, tied
    backbone, head = language_model(hf.AutoModelForCausalLM.from_config(config).eval(), byte_level())
    small = pruned(AttentionHeads(backbone), "0.1 0.3 1.0")
    small.save(tmp_path)
    if not tied:
        with pytest.raises(BackboneError, match=r"lack 'lm_head\.weight'"):
            language_model(tmp_path)
        small_model = hf.AutoModelForCausalLM.from_config(config)
        small_model.transformer, small_model.lm_head = small.model, head
        small_model.config = small.model.config
        small_model.save_pretrained(tmp_path)
    again, head_again = language_model(tmp_path)
    batch = RaggedBatch(rows())
    with torch.inference_mode():
        assert AttentionHeads(again).counts == (2, 3, 4)
        assert torch.equal(again.run(batch)["output"], small.run(batch)["output"])
        assert torch.equal(head_again.weight, head.weight)
    assert generate(again, head_again, batch, most=3) == generate(small, head, batch, most=3)
