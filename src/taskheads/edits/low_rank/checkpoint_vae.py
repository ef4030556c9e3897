"""A conditional variational autoencoder over checkpoints of the same parameters: ICM-LoRA's generator."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional


class Normaliser:
    """Named tensors as one vector and back: end to end, each less its mean and over its spread.

    Parameters
    ----------
    checkpoints: by name, the tensors of K checkpoints, stacked [K, ...]; mean and standard deviation are
        taken over all of them, so that a generated vector needs no statistics of a checkpoint of its own.
    """

    def __init__(self, checkpoints: Mapping[str, torch.Tensor]) -> None:
        self.shapes = {name: each.shape[1:] for name, each in checkpoints.items()}
        # In double precision, so that what comes back is what went in, to the last bit of single precision.
        self.means = {name: each.double().mean() for name, each in checkpoints.items()}
        self.spreads = {
            name: each.double().std(correction=0).clamp_min(1e-12) for name, each in checkpoints.items()
        }

    def flat(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[..., numbers], of tensors [..., *shape] by name; double precision."""
        parts = []
        for name, shape in self.shapes.items():
            part = (tensors[name].double() - self.means[name]) / self.spreads[name]
            parts.append(part.flatten(part.ndim - len(shape)))
        return torch.cat(parts, -1)

    def unflat(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors by name, single precision, of a vector [numbers]."""
        parts = vector.double().split([shape.numel() for shape in self.shapes.values()])
        return {
            name: (part * self.spreads[name] + self.means[name]).reshape(shape).float()
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }


class Span:
    """Vectors w [K, numbers] by their coordinates u [K, d] in the affine space that they span, d < K.

    K checkpoints of 100,000 numbers are as many points of a space of K - 1 dimensions; what is generated
    outside it could only be wrong. mean (u − û)² is mean (w − ŵ)², so that nothing else changes.
    """

    def __init__(self, w: torch.Tensor) -> None:
        self.centre = w.mean(0)
        _, values, basis = torch.linalg.svd(w - self.centre, full_matrices=False)
        basis = basis[: max(1, int((values > 1e-9 * values[0]).sum()))]
        self.basis = basis * (w.shape[1] / len(basis)) ** 0.5
        self.coordinates = (w - self.centre) @ self.basis.T * (len(basis) / w.shape[1])

    def vector(self, u: torch.Tensor) -> torch.Tensor:
        """w [numbers] with the coordinates u [d]."""
        return self.centre + u.to(self.basis) @ self.basis


class ConditionalVae(nn.Module):
    """q(z | w, c) and p(w | z, c) for vectors w [numbers] under a condition c, both with one hidden layer.

    Sohn et al. 2015. Where the authors of ICM-LoRA convolve over w, these layers are dense: the order of
    weights in a flattened LoRA has no neighbourhood to speak of.

    Parameters
    ----------
    numbers, condition: widths of w and c. hidden: of the layers. latent: of z.
    """

    def __init__(self, numbers: int, condition: int, *, hidden: int = 128, latent: int = 16) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = nn.Sequential(nn.Linear(numbers + condition, hidden), nn.SiLU())
        self.posterior = nn.Linear(hidden, 2 * latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent + condition, hidden), nn.SiLU(), nn.Linear(hidden, numbers)
        )

    def loss(self, w: torch.Tensor, c: torch.Tensor, beta: float) -> torch.Tensor:
        """mean (w − ŵ)² + beta · KL(q(z | w, c) ‖ N(0, I)), for w [K, numbers] and c [K, condition], with one
        draw of z for each."""
        mean, log_variance = self.posterior(self.encoder(torch.cat([w, c], 1))).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return functional.mse_loss(self.decode(z, c), w) + beta * divergence

    def decode(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """ŵ [K, numbers] for z [K, latent] and c [K, condition]."""
        return self.decoder(torch.cat([z, c], 1))


def fitted_vae(
    w: torch.Tensor, c: torch.Tensor, *, steps: int, beta: float = 0.005, seed: int = 0, **widths: int
) -> ConditionalVae:
    """A conditional autoencoder of the vectors w [K, numbers] under the conditions c [K, condition], trained
    by Adam on all of them at once, its rate falling to zero.

    beta: weight of the divergence, 0.005 as in the authors' code. widths: `hidden` and `latent`.
    """
    with torch.random.fork_rng(devices=[w.device] if w.is_cuda else []), torch.enable_grad():
        torch.manual_seed(seed)
        vae = ConditionalVae(w.shape[1], c.shape[1], **widths).to(w)
        optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            vae.loss(w, c, beta).backward()
            optimizer.step()
            schedule.step()
    return vae.eval().requires_grad_(False)
