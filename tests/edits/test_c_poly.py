"""C-Poly: common skills by allocation, private skills; its limits are Polytropon and one LoRA a task."""

from __future__ import annotations

import pytest
import torch

from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.edits.low_rank.c_poly import CPoly
from taskheads.edits.maps import by_name
from taskheads.errors import ConfigError
from tests.edits.planted import TASKS, backbone_of, batch_of, rows_of, stirred
from tests.edits.test_known_edits import outputs

pytestmark = pytest.mark.method("c_poly")
ONE = {"targets": ["query"], "layers": [0], "rank": 1, "alpha": 1.0}
QUERY = "encoder.layer.0.attention.self.query"


def update(edit: CPoly, task: str) -> torch.Tensor:
    """The difference to the one map's weight, transposed, [in, out]."""
    return edit.own(task, ()).maps[QUERY](torch.eye(32), torch.zeros(32, 32))


def test_private_skills_get_no_gradient_from_other_tasks() -> None:
    backbone = backbone_of("bert")
    edit = stirred(made("c_poly", backbone, TASKS, {"private": 2})).train()
    output = Edited(backbone, dict.fromkeys(TASKS, edit)).run(batch_of(rows_of()))["output"]
    sizes = [sum(map(len, each)) for each in rows_of().values()]
    output.split(sizes)[1].square().sum().backward()
    for task in TASKS:
        skills = edit.private[f"task/{task}"]
        reached = [p.grad is not None and bool(p.grad.any()) for p in skills.parameters()]
        assert all(reached) if task == "second" else not any(reached)
        logits = edit.common.logits[f"task/{task}"].grad
        assert (logits is not None and logits.any()) == (task == "second")
    assert all(each.down.grad.any() for each in by_name(edit.common.maps).values())


@torch.inference_mode()
def test_without_private_skills_it_is_polytropon() -> None:
    """Σ_i w_i B_i A_i, w the row of the allocation matrix after the sigmoid, divided by its sum."""
    edit = stirred(made("c_poly", backbone_of("bert"), TASKS, ONE | {"common": 3, "private": 0}), by=0.8)
    assert not edit.private
    delta = by_name(edit.common.maps)[QUERY]
    for task in TASKS:
        weights = edit.common.logits[f"task/{task}"].sigmoid()
        expected = sum(
            weight / weights.sum() * torch.outer(delta.down[k], delta.up[k])
            for k, weight in enumerate(weights)
        )
        torch.testing.assert_close(update(edit, task), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(update(edit, "first"), update(edit, "second"), atol=1e-3)


def test_without_common_skills_it_is_a_lora_a_task() -> None:
    backbone = backbone_of("llama")
    edit = stirred(made("c_poly", backbone, TASKS, {"common": 0, "private": 1, "rank": 3, "alpha": 5.0}))
    assert edit.common is None
    for task in TASKS:
        lora = made("lora", backbone, ["first"], {"rank": 3, "alpha": 5.0})
        lora.maps.load_state_dict(edit.private[f"task/{task}"].maps.state_dict())
        expected = outputs(backbone, lora)
        with torch.inference_mode():
            batch = batch_of({task: rows_of()["first"]})
            found = Edited(backbone, {task: edit}).run(batch)["output"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_in_training_shares_are_drawn_and_sum_to_one() -> None:
    edit = made("c_poly", backbone_of("bert"), TASKS, ONE | {"common": 4})
    skills = edit.common
    with torch.no_grad():
        skills.logits["task/first"].copy_(torch.tensor([3.0, 0.0, 0.0, -3.0]))
    assert torch.equal(skills.allocation("first"), skills.allocation("first"))
    skills.train()
    torch.manual_seed(0)
    drawn = torch.stack([skills.allocation("first") for _ in range(400)]).detach()
    torch.testing.assert_close(drawn.sum(1), torch.ones(400))
    assert drawn.std(0).min() > 0.01
    # P(drawn > 1/2 before division) = sigmoid(logit): a relaxed Bernoulli keeps its odds.
    torch.manual_seed(0)
    raw = torch.distributions.RelaxedBernoulli(torch.tensor(1.0), logits=skills.logits["task/first"].detach())
    taken = (raw.sample((4000,)) > 0.5).float().mean(0)
    torch.testing.assert_close(taken, skills.logits["task/first"].detach().sigmoid(), rtol=0, atol=0.03)
    order = drawn.mean(0)
    assert order[0] > order[1] > order[3]
    assert order[2] > order[3]


def test_the_common_skills_span_the_planted_common_part() -> None:
    tasks = [f"task{k}" for k in range(6)]
    generator = torch.Generator().manual_seed(1)

    def rank_one() -> torch.Tensor:
        into, out = torch.randn(2, 32, generator=generator)
        return torch.outer(into, out) / 32

    common = [rank_one(), rank_one()]
    shares = torch.rand(len(tasks), generator=generator)
    targets = [share * common[0] + (1 - share) * common[1] + rank_one() for share in shares]
    torch.manual_seed(0)
    edit = stirred(made("c_poly", backbone_of("bert"), tasks, ONE | {"common": 2}))
    optimizer = torch.optim.LBFGS(edit.parameters(), max_iter=150, line_search_fn="strong_wolfe")
    wanted = torch.stack(targets)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = torch.stack([update(edit, task) for task in tasks])
        value = (found - wanted).square().sum() / wanted.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert float(loss().detach()) < 1e-4
    delta = by_name(edit.common.maps)[QUERY]
    learned = torch.stack([torch.outer(delta.down[k], delta.up[k]).flatten() for k in range(2)]).detach()
    basis = torch.linalg.qr(learned.T)[0]
    for each in common:
        flat = each.flatten()
        assert float((basis.T @ flat).norm() / flat.norm()) > 0.99
    own = [update(edit, task).detach().flatten() for task in tasks]  # what is not common is not in the span
    assert all(float((basis.T @ each).norm() / each.norm()) < 0.95 for each in own)


def test_a_task_that_leaves_takes_its_own_and_nothing_else() -> None:
    backbone = backbone_of("bert")
    edit = stirred(made("c_poly", backbone, TASKS))
    batch = batch_of({"second": rows_of()["second"]})
    before = Edited(backbone, {"second": edit}).run(batch)["output"]
    edit.forget("first")
    assert edit.tasks == ["second", "third"]
    assert not any("first" in name for name in edit.state_dict())
    assert torch.equal(Edited(backbone, {"second": edit}).run(batch)["output"], before)


def test_a_task_may_have_any_name() -> None:
    edit = made("c_poly", backbone_of("bert"), ["type", "train", "a.b"], ONE)
    assert update(edit, "type").shape == update(edit, "a.b").shape == (32, 32)


def test_no_skill_at_all_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no skill"):
        made("c_poly", backbone_of("bert"), TASKS, {"common": 0, "private": 0})
