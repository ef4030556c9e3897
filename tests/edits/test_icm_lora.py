"""ICM-LoRA: checkpoints go through the generator and come out as LoRAs that do their task, and no other."""

from __future__ import annotations

import pytest
import torch

from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited, frozen
from taskheads.edits.low_rank.checkpoint_vae import ConditionalVae, Normaliser, Span
from taskheads.edits.low_rank.icm_lora import LoraGenerator
from taskheads.errors import ConfigError
from tests.edits.planted import TASKS, backbone_of, batch_of, rows_of, stirred

pytestmark = pytest.mark.method("icm_lora")


def test_flat_and_normalised_comes_back_bit_for_bit() -> None:
    torch.manual_seed(0)
    checkpoints = {"a/down": 3 + 1e-3 * torch.randn(5, 7, 2), "a/up": 40 * torch.randn(5, 2, 3)}
    normaliser = Normaliser(checkpoints)
    flat = normaliser.flat(checkpoints)
    assert flat.shape == (5, 14 + 6)
    torch.testing.assert_close(flat[:, :14].mean(), torch.tensor(0.0).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(flat[:, :14].std(correction=0), torch.tensor(1.0).double())
    for k, vector in enumerate(flat):
        for name, tensor in normaliser.unflat(vector).items():
            assert torch.equal(tensor, checkpoints[name][k])
        one = {name: each[k] for name, each in checkpoints.items()}
        assert torch.equal(normaliser.flat(one), vector)


def test_coordinates_lose_nothing_and_keep_distances() -> None:
    torch.manual_seed(0)
    w = torch.randn(6, 500).double()
    w[5] = w[:2].mean(0)  # of what the others span already
    span = Span(w)
    assert span.coordinates.shape == (6, 4)
    for u, vector in zip(span.coordinates, w, strict=True):
        torch.testing.assert_close(span.vector(u), vector, rtol=0, atol=1e-9)
    u = torch.randn(4).double()
    apart = (span.vector(u) - w[0]).square().mean()
    torch.testing.assert_close((u - span.coordinates[0]).square().mean(), apart)
    assert Span(w[:1]).vector(torch.zeros(1)).equal(w[0])


def test_the_loss_is_the_evidence_bound_of_its_parts() -> None:
    """With a posterior that is N(m, e^s), whatever the vector, against torch.distributions."""
    torch.manual_seed(0)
    vae = ConditionalVae(6, 2, hidden=5, latent=3)
    torch.nn.init.zeros_(vae.posterior.weight)
    with torch.no_grad():
        vae.posterior.bias.copy_(torch.tensor([1.0, -0.5, 0.2, 0.3, -1.0, 0.0]))
    w, c = torch.randn(4, 6), torch.randn(4, 2)
    mean, spread = vae.posterior.bias[:3], (vae.posterior.bias[3:] / 2).exp()
    torch.manual_seed(1)
    found = vae.loss(w, c, beta=0.3)
    torch.manual_seed(1)
    z = mean + spread * torch.randn(4, 3)
    posterior, prior = torch.distributions.Normal(mean, spread), torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(posterior, prior).sum()
    expected = (vae.decode(z, c) - w).square().mean() + 0.3 * divergence
    torch.testing.assert_close(found, expected)


def toy_lora(target: torch.Tensor, seed: int) -> list[dict[str, torch.Tensor]]:
    """The checkpoints of the last steps of a LoRA that learns `target` [12, 10] from noisy batches."""
    generator = torch.Generator().manual_seed(seed)
    lora = {"down": torch.randn(12, 2, generator=generator) / 12**0.5, "up": torch.zeros(2, 10)}
    checkpoints = []
    for step in range(220):
        x = torch.randn(32, 12, generator=generator)
        y = x @ target + torch.randn(32, 10, generator=generator)
        off = (x @ lora["down"] @ lora["up"] - y) / len(x)
        down, up = x.T @ off @ lora["up"].T, lora["down"].T @ (x.T @ off)
        lora = {"down": lora["down"] - 0.1 * down, "up": lora["up"] - 0.1 * up}
        if step >= 160 and step % 5 == 0:
            checkpoints.append(lora)
    return checkpoints


def test_the_condition_decides_which_task_the_generated_lora_solves() -> None:
    """Eight planted tasks, y = x ΔW_t + noise: the loss of every condition's LoRA on every task's data."""
    torch.manual_seed(0)
    names = [f"task{k}" for k in range(8)]
    targets = {name: torch.randn(12, 2) @ torch.randn(2, 10) / 2 for name in names}
    checkpoints = {name: toy_lora(target, k) for k, (name, target) in enumerate(targets.items())}
    vectors = {name: torch.randn(16) for name in names}
    generator = LoraGenerator(checkpoints, vectors, hidden=64, latent=4, steps=800)
    x, noise = torch.randn(2000, 12), torch.randn(2000, 10)

    def loss(lora: dict[str, torch.Tensor], name: str) -> float:
        return float((x @ lora["down"] @ lora["up"] - x @ targets[name] - noise).square().mean())

    z = torch.randn(4)
    for condition in names:
        generated = generator.drawn(vectors[condition], z)
        losses = {name: loss(generated, name) for name in names}
        assert losses[condition] < 1.1 * loss(checkpoints[condition][-1], condition)
        assert min(losses, key=losses.get) == condition
        assert min(each for name, each in losses.items() if name != condition) > 2 * losses[condition]


def test_trained_generated_and_served() -> None:
    """The two stages on a backbone: what the second's LoRAs do is what the first's learned."""
    backbone = backbone_of("bert")
    options = {"targets": ["value"], "layers": [1], "rank": 2, "every": 2, "snapshots": 8}
    options |= {"steps": 500, "hidden": 32, "latent": 4}
    edit = made("icm_lora", backbone, TASKS, options).train()
    edited = Edited(backbone, dict.fromkeys(TASKS, edit))
    chosen = rows_of()
    batch = batch_of(chosen)
    sizes = [sum(map(len, each)) for each in chosen.values()]
    truth = stirred(made("icm_lora", backbone, TASKS, options), seed=5, by=0.4).eval()
    with torch.no_grad():
        target = Edited(backbone, dict.fromkeys(TASKS, truth)).run(batch)["output"]
        plain = backbone.run(batch)["output"]
    optimizer = torch.optim.Adam(edit.parameters(), lr=2e-2)
    with frozen(backbone):
        for _ in range(80):
            optimizer.zero_grad()
            (edited.run(batch)["output"] - target).square().mean().backward()
            optimizer.step()
    for task in TASKS:
        checkpoints = edit.track(task).checkpoints(edit.library[f"task/{task}"])
        assert len(checkpoints) == 8 + 1
        assert torch.equal(checkpoints[-1]["encoder/layer/1/attention/self/value.up"], loras(edit, task).up)
    for task in TASKS:  # the frozen backbone's last tokens, though the LoRAs have learned since
        hidden = backbone.run(RaggedBatch(chosen[task]), ["layers.2.output"])["layers.2.output"]
        ends = torch.tensor([len(row) for row in chosen[task]]).cumsum(0) - 1
        torch.testing.assert_close(edit.track(task).vector, hidden[ends].mean(0), rtol=1e-5, atol=1e-5)

    second = edit.following(backbone)
    assert second.following(backbone) is None
    assert not any(each.requires_grad for each in second.parameters())

    def off(some) -> list[float]:
        with torch.inference_mode():
            found = Edited(backbone, dict.fromkeys(TASKS, some)).run(batch)["output"]
        return [float(each.square().mean()) for each in (found - target).split(sizes)]

    before = [float(each.square().mean()) for each in (plain - target).split(sizes)]
    for nothing, trained, generated in zip(before, off(edit.eval()), off(second), strict=True):
        assert trained < 0.2 * nothing
        assert generated < 0.3 * nothing
    again = made("icm_lora", backbone, TASKS, second.options)
    again.load_state_dict(second.state_dict())
    assert off(again) == off(second)


def test_the_last_checkpoints_are_those_that_are_kept() -> None:
    backbone = backbone_of("bert")
    options = {"targets": ["value"], "layers": [1], "rank": 1, "every": 2, "snapshots": 3}
    edit = made("icm_lora", backbone, ["first"], options).train()
    edited = Edited(backbone, {"first": edit}, "first")
    for step in range(11):
        loras(edit, "first").up.data.fill_(step)
        edited.run(RaggedBatch(rows_of()["first"]))
    with torch.no_grad():
        edited.run(RaggedBatch(rows_of()["first"]))  # not in training
    kept = edit.track("first").checkpoints(edit.library["task/first"])
    name = "encoder/layer/1/attention/self/value.up"
    assert sorted(float(each[name].mean()) for each in kept[:-1]) == [5, 7, 9]
    assert float(kept[-1][name].mean()) == 10
    again = made("icm_lora", backbone, ["first"], options)  # as after an interruption
    again.load_state_dict(edit.state_dict())
    for mine, theirs in zip(kept, again.track("first").checkpoints(again.library["task/first"]), strict=True):
        assert torch.equal(mine[name], theirs[name])


def loras(edit, task: str):
    (delta,) = edit.of(task).values()
    return delta


def test_mistakes_are_named() -> None:
    backbone = backbone_of("bert")
    with pytest.raises(ConfigError, match="every=0"):
        made("icm_lora", backbone, TASKS, {"every": 0})
    with pytest.raises(ConfigError, match="never trained on rows of 'first'"):
        made("icm_lora", backbone, TASKS).following(backbone)
