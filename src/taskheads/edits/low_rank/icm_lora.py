"""ICM-LoRA: LoRAs generated from a description of their task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Change
from taskheads.edits.edit import Edit, Own
from taskheads.edits.low_rank.checkpoint_vae import ConditionalVae, Normaliser, Span, fitted_vae
from taskheads.edits.low_rank.own_loras import OwnLoras
from taskheads.edits.maps import task_key
from taskheads.errors import ConfigError
from taskheads.methods import method

Lora = dict[str, torch.Tensor]


class LoraGenerator:
    """p(LoRA | task vector): a conditional autoencoder over checkpoints of the LoRAs of several tasks.

    Parameters
    ----------
    checkpoints: for each task, its checkpoints: parameters by name, of the same shapes everywhere.
    vectors: for each task, its task vector [width]: the mean hidden state of the last tokens of its rows.
    steps: of training. widths: `hidden` and `latent` of `ConditionalVae`.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Sequence[Lora]],
        vectors: Mapping[str, torch.Tensor],
        *,
        steps: int = 1500,
        seed: int = 0,
        **widths: int,
    ) -> None:
        every = [each for some in checkpoints.values() for each in some]
        stacked = {name: torch.stack([each[name] for each in every]) for name in every[0]}
        self.normaliser = Normaliser(stacked)
        self.span = Span(self.normaliser.flat(stacked))
        described = torch.stack([vectors[task] for task in checkpoints]).float()
        self.centre, self.spread = described.mean(0), described.std(correction=0).clamp_min(1e-12)
        conditions = torch.cat(
            [self.condition(vectors[task]).expand(len(some), -1) for task, some in checkpoints.items()]
        )
        self.vae: ConditionalVae = fitted_vae(
            self.span.coordinates.float(), conditions, steps=steps, seed=seed, **widths
        )

    def condition(self, vector: torch.Tensor) -> torch.Tensor:
        """A task vector [width] relative to those of the tasks that it was fitted on, [1, width]."""
        return ((vector.float() - self.centre) / self.spread)[None]

    def drawn(self, vector: torch.Tensor, z: torch.Tensor | None = None) -> Lora:
        """A LoRA for the task with this vector. z [latent]: by default drawn from N(0, I)."""
        z = torch.randn(self.vae.latent, device=vector.device) if z is None else z
        coordinates = self.vae.decode(z[None], self.condition(vector))[0]
        return self.normaliser.unflat(self.span.vector(coordinates))


class Track(nn.Module):
    """What stage one keeps of a task: its vector [width], NaN before it is taken, and its LoRA's last
    checkpoints, every so many passes. All of it buffers, so that it is part of the edit's state."""

    vector: torch.Tensor
    passes: torch.Tensor
    ring: torch.Tensor

    def __init__(self, width: int, lora: nn.Module, snapshots: int, every: int) -> None:
        super().__init__()
        self.every = every
        numbers = sum(parameter.numel() for parameter in lora.parameters())
        self.register_buffer("vector", torch.full((width,), torch.nan))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("ring", torch.zeros(snapshots, numbers))

    @torch.no_grad()
    def passed(self, lora: nn.Module) -> None:
        """Count a forward pass in training, and keep the LoRA if it is its turn."""
        self.passes += 1
        turn, between = divmod(int(self.passes), self.every)
        if not between:
            self.ring[(turn - 1) % len(self.ring)] = parameters_to_vector(lora.parameters())

    def checkpoints(self, lora: nn.Module) -> list[Lora]:
        """Those that were kept, and the LoRA as it is now."""
        kept = self.ring[: int(self.passes) // self.every]
        named = dict(lora.named_parameters())
        sizes = [each.numel() for each in named.values()]
        now = parameters_to_vector(lora.parameters()).detach()
        return [
            {
                name: part.view_as(each)
                for part, (name, each) in zip(vector.split(sizes), named.items(), strict=True)
            }
            for vector in (*kept, now)
        ]


@method("icm_lora", family="edits", paper="arXiv:2501.17635")
class IcmLora(OwnLoras):
    """ICM-LoRA: a conditional variational autoencoder learns the LoRAs of all tasks from their checkpoints
    and makes a task's LoRA out of the task's vector, without fine-tuning.

    Shao et al. 2025. Stage one trains a LoRA for each task, keeps its last checkpoints, and takes the task's
    vector: the mean of the backbone's hidden states at the last tokens of rows, in the highest layer that the
    heads need. It is taken in the first forward pass with rows of that task, when its LoRA still adds nothing
    (the paper takes it over prompts with examples in context). Then the generator is fitted, and stage two
    has the LoRAs that it draws, which no longer learn, and the heads learn to read them.

    Parameters
    ----------
    snapshots: checkpoints that are kept of each task; 0 for LoRAs as they are, with no generator to follow.
    every: forward passes of a task between its checkpoints.
    steps, hidden, latent: of the generator, see `LoraGenerator`. seed: of its training and of its draw.
    targets, rank, alpha, layers: as those of `lora`.
    """

    stages = 2

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        snapshots: int = 16,
        every: int = 5,
        steps: int = 1500,
        hidden: int = 128,
        latent: int = 16,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(backbone, tasks, **options)
        if snapshots < 0 or every < 1:
            raise ConfigError(f"icm_lora: no checkpoints can be kept with {snapshots=} and {every=}")
        self.fitting = {"steps": steps, "hidden": hidden, "latent": latent, "seed": seed}
        self.outputs = [f"layers.{layer}.output" for layer in range(backbone.n_layers)]
        self.tracks = nn.ModuleDict(
            {
                place: Track(backbone.width, lora, snapshots, every)
                for place, lora in self.library.items()
                if snapshots
            }
        )

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        own = super().own(task, lengths)
        if not (self.tracks and self.training and torch.is_grad_enabled()):
            return own
        track = self.track(task)
        track.passed(self.library[task_key(task)])
        if not track.vector.isnan().any():
            return own
        return Own(sites=dict.fromkeys(self.outputs, _described(track, lengths)), maps=own.maps)

    def following(self, backbone: Backbone) -> Edit | None:
        if not self.tracks:
            return None
        vectors = {task: self.track(task).vector for task in self.tasks}
        if unseen := [task for task, vector in vectors.items() if vector.isnan().any()]:
            raise ConfigError(f"icm_lora was never trained on rows of {unseen[0]!r}")
        checkpoints = {
            task: self.track(task).checkpoints(self.library[task_key(task)]) for task in self.tasks
        }
        generator = LoraGenerator(checkpoints, vectors, **self.fitting)
        options = self.options | {"snapshots": 0}
        second = IcmLora(backbone, self.tasks, **options).to(self.device)
        second.options = options
        draw = torch.Generator().manual_seed(self.fitting["seed"])
        for task in self.tasks:
            z = torch.randn(self.fitting["latent"], generator=draw).to(self.device)
            second.library[task_key(task)].load_state_dict(generator.drawn(vectors[task], z))
        second.library.requires_grad_(False)
        return second

    def forget(self, task: str) -> None:
        super().forget(task)
        if self.tracks:
            del self.tracks[task_key(task)]

    def track(self, task: str) -> Track:
        """What stage one keeps of a task."""
        return self.tracks[task_key(task)]  # type: ignore[return-value]


def _described(track: Track, lengths: Sequence[int]) -> Change:
    ends = torch.tensor([length for length in lengths if length]).cumsum(0) - 1

    def change(hidden: torch.Tensor) -> torch.Tensor:
        # Of all layers that run, the last one's word stands.
        track.vector.copy_(hidden.detach()[ends.to(hidden.device)].float().mean(0))
        return hidden

    return change
