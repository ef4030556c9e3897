"""One batch asked for many tasks: the bits of each task alone, and the lower layers run once."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from taskheads.backbone.changes import Lower
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edited import Edited, run_together
from taskheads.errors import BackboneError
from tests.backbone.models import CONFIGS
from tests.edits.planted import TASKS, backbone_of, edits_of, rows_of

READ = {"first": ["embeddings", "output"], "second": ["layers.1.output", "output"], "unedited": ["output"]}


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize(
    ("method", "options"),
    [("lora", {"layers": [0]}), ("lora", {"layers": [2]}), ("lofit", {"heads": [(2, 1), (2, 3)]})],
)
@torch.inference_mode()
def test_every_bit_is_as_alone(architecture: str, method: str, options: dict) -> None:
    backbone = backbone_of(architecture)
    edited = Edited(backbone, edits_of(backbone, method, TASKS, **options))
    batch = RaggedBatch(rows_of()["first"])
    found = run_together(edited, batch, READ)
    for task, sites in READ.items():
        alone = edited.of(task).run(batch, sites)
        assert set(found[task]) == set(sites)
        for site in sites:
            assert torch.equal(found[task][site], alone[site]), (task, site)


@torch.inference_mode()
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix"])
def test_what_changes_the_lowest_layer_shares_nothing(method: str) -> None:
    backbone = backbone_of("llama")
    edited = Edited(backbone, edits_of(backbone, method))
    batch = RaggedBatch(rows_of()["first"])
    found = run_together(edited, batch, READ)
    for task, sites in READ.items():
        for site, tensor in edited.of(task).run(batch, sites).items():
            assert torch.equal(found[task][site], tensor)


@torch.inference_mode()
def test_the_lower_layers_run_once() -> None:
    backbone = backbone_of("bert")
    edited = Edited(backbone, edits_of(backbone, "lora", TASKS, layers=[2]))
    calls = [0, 0, 0]

    def count(number: int) -> None:
        calls[number] += 1

    inner = [layer.intermediate for layer in backbone.layout.layers]
    for number, module in enumerate(inner):
        module.register_forward_hook(lambda *_, number=number: count(number))
    run_together(edited, RaggedBatch(rows_of()["first"]), {task: ["output"] for task in TASKS})
    assert calls == [1, 1, 3]
    assert not any("forward" in vars(layer) for layer in backbone.layout.layers)


@torch.inference_mode()
def test_threads_do_not_meet() -> None:
    backbone = backbone_of("bert")
    edited = Edited(backbone, edits_of(backbone, "lora", TASKS, layers=[2]))
    batches = [RaggedBatch(rows) for rows in rows_of().values()]
    expected = [run_together(edited, batch, READ)["first"]["output"] for batch in batches]
    wrong: list[int] = []

    def work(number: int) -> None:
        with torch.inference_mode():
            for _ in range(20):
                found = run_together(edited, batches[number], READ)["first"]["output"]
                if not torch.equal(found, expected[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not any("forward" in vars(layer) for layer in backbone.layout.layers)


def test_a_change_below_cannot_take_what_others_made() -> None:
    backbone = backbone_of("bert")
    edited = Edited(backbone, edits_of(backbone, "lora", TASKS, layers=[1]))
    batch = RaggedBatch(rows_of()["first"])
    changes = replace(edited.changes_of("first", batch), lower=Lower(2))
    with pytest.raises(BackboneError, match="below layer 2"):
        backbone.run(batch, ["output"], changes)
