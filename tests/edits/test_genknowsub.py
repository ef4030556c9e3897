"""GenKnowSub: exact subtraction, prototypes from the factors, routing as PEFT's Arrow."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from peft.tuners.lora.config import ArrowConfig

from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.edits.low_rank.arrow import Arrow, mean_of, prototype, without_general
from taskheads.edits.maps import by_name
from taskheads.errors import ConfigError
from tests.edits.planted import TASKS, backbone_of, batch_of, rows_of, stirred

pytestmark = pytest.mark.method("genknowsub")
Factors = tuple[torch.Tensor, torch.Tensor]


def factors(rank: int = 3, inputs: int = 12, outputs: int = 9) -> Factors:
    return torch.randn(inputs, rank).double(), torch.randn(rank, outputs).double()


def test_what_is_left_and_the_general_are_the_task_again() -> None:
    torch.manual_seed(0)
    task, general = factors(), factors(2)
    left = without_general(task, general, 0.7)
    again = left[0] @ left[1] + 0.7 * general[0] @ general[1]
    torch.testing.assert_close(again, task[0] @ task[1], rtol=0, atol=1e-12)
    several = [factors(), factors(), factors()]
    mean = mean_of(several)
    expected = torch.stack([a @ b for a, b in several]).mean(0)
    torch.testing.assert_close(mean[0] @ mean[1], expected, rtol=0, atol=1e-12)


def test_the_prototype_is_the_top_right_singular_vector() -> None:
    torch.manual_seed(0)
    for rank in (1, 3, 15):  # 15 is more than the inputs
        down, up = factors(rank)
        expected = torch.linalg.svd((down @ up).T)[2][0]
        found = prototype(down, up)
        torch.testing.assert_close(found * (found @ expected).sign(), expected, rtol=0, atol=1e-9)


def test_a_planted_direction_shows_once_the_general_is_gone() -> None:
    """ΔW_i = u vᵀ + c ΔW_g, with v orthogonal to the rows of ΔW_g and c large."""
    torch.manual_seed(0)
    general = factors(2)
    v = torch.randn(12).double()
    v -= general[0] @ torch.linalg.lstsq(general[0], v[:, None]).solution[:, 0]
    v /= v.norm()
    u, c = torch.randn(1, 9).double(), 5.0
    task = torch.cat([v[:, None], general[0]], 1), torch.cat([u, c * general[1]])
    found = prototype(*without_general(task, general, c))
    torch.testing.assert_close((found @ v).abs(), torch.tensor(1.0).double(), rtol=0, atol=1e-9)
    dominant = torch.linalg.svd((general[0] @ general[1]).T)[2][0]
    assert (prototype(*task) @ dominant).abs() > 0.99
    assert (prototype(*task) @ v).abs() < 0.05


@pytest.mark.parametrize("top", [1, 2, 4])
def test_tokens_are_routed_as_by_pefts_arrow(top: int) -> None:
    torch.manual_seed(0)
    library = [tuple(each.float() for each in factors()) for _ in range(4)]
    general = torch.zeros(12, 1), torch.zeros(1, 9)
    arrow = Arrow(library, general, 1.0, top)
    config, names = ArrowConfig(top_k=top), [f"task_{k}" for k in range(4)]
    config.task_adapter_names = names
    theirs = ArrowLoraLinearLayer(12, config)
    a, b = {}, {}
    for name, (down, up) in zip(names, library, strict=True):
        a[name] = torch.nn.Linear(12, 3, bias=False)
        b[name] = torch.nn.Linear(3, 9, bias=False)
        a[name].weight.data, b[name].weight.data = down.T.contiguous(), up.T.contiguous()
    theirs.build_prototypes(a, b)
    # Their fifteen power iterations come near the singular vectors; the routing is compared on the same ones.
    near = (theirs.prototypes * arrow.prototypes).sum(1).abs()
    assert near.min() > 0.9
    theirs.prototypes = arrow.prototypes
    x, output = torch.randn(2, 5, 12), torch.randn(10, 9)
    expected = theirs(x, a, b, torch.nn.Identity(), dict.fromkeys(names, 1.0))
    found = arrow(x.flatten(0, 1), output)
    torch.testing.assert_close(found, output + expected.flatten(0, 1), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("general", [None, "third"])
def test_the_second_stage_routes_over_what_is_left(general: str | None) -> None:
    """Every token of one map, against the library written out as dense matrices."""
    backbone = backbone_of("bert")
    options = {"rank": 2, "alpha": 3.0, "layers": [0], "weight": 0.8, "top": 2, "general": general}
    edit = stirred(made("genknowsub", backbone, TASKS, options), by=0.5)
    dense = {task: {name: delta.weight() for name, delta in edit.of(task).items()} for task in edit.tasks}
    second = edit.following(backbone)
    assert second.following(backbone) is None
    owners = [task for task in TASKS if task != general]
    assert second.options["library"] == owners
    x = torch.randn(6, 32)
    for name, arrow in by_name(second.arrows).items():
        whole = (
            dense[general][name] if general else torch.stack([dense[task][name] for task in TASKS]).mean(0)
        )
        left = torch.stack([dense[task][name] - 0.8 * whole for task in owners])
        found = second.own("second", ()).maps[name](x, torch.zeros(6, 32))
        assert arrow is second.own("first", ()).maps[name]
        for token, mine in zip(x, found, strict=True):
            scores = torch.stack([(torch.linalg.svd(each)[2][0] @ token).abs() for each in left])
            kept = scores.argsort(descending=True)[:2]
            expected = sum(
                share * left[k] @ token for share, k in zip(scores[kept].softmax(0), kept, strict=True)
            )
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_the_second_stage_learns_nothing_and_is_saved() -> None:
    backbone = backbone_of("llama")
    edit = stirred(made("genknowsub", backbone, TASKS, {"rank": 2}))
    second = edit.following(backbone)
    assert not any(each.requires_grad for each in second.parameters())
    again = made("genknowsub", backbone, second.tasks, second.options)
    again.load_state_dict(second.state_dict())
    batch = batch_of(rows_of())
    before, after = (
        Edited(backbone, dict.fromkeys(TASKS, each)).run(batch)["output"] for each in (second, again)
    )
    assert torch.equal(before, after)
    again.forget("first")  # whose LoRA the others' tokens still choose
    left = dict.fromkeys(("second", "third"), again)
    some = batch_of({"second": rows_of()["second"]})
    assert torch.equal(
        Edited(backbone, left).run(some)["output"], Edited(backbone, {"second": second}).run(some)["output"]
    )
    with pytest.raises(ConfigError, match="folded"):
        second.fold(backbone, "first")


@pytest.mark.parametrize(
    ("tasks", "options", "said"),
    [(TASKS, {"general": "wiki"}, "'wiki'"), (TASKS, {"top": 0}, "top=0"), (["first"], {}, "two tasks")],
)
def test_mistakes_are_named(tasks: list[str], options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made("genknowsub", backbone_of("bert"), tasks, options)
