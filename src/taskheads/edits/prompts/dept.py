"""DePT: what the classes of training alone need is learned apart from the features that prompts tune."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from taskheads.errors import ConfigError
from taskheads.methods import method


class Film(nn.Module):
    """A scale and a shift for each channel (Perez et al. 2018), [..., d] to [..., d]; first the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


@method(
    "dept_decoupled_prompt_tuning",
    family="edits",
    paper="arXiv:2309.07439",
    applies_to=("classify",),
    needs="a model of two towers, one of images and one of texts",
)
class DecoupledPromptTuning(nn.Module):
    """DePT: beside the match of image and class text, a second head learns what tells the base classes apart
    in a space of its own, so that prompts need not put it into the features that new classes share.

    Zhang et al. 2024. A plug-in for any tuner of prompts of a two-tower model (CoOp and its kin): the tuner
    makes the features of images [n, d] and of the classes' prompted texts [classes, d], this makes loss and
    answers of them. Image and text features each pass a `Film`, and one linear classifier over the
    base classes is trained on both. It is no edit of one backbone: the towers are two.

    Parameters
    ----------
    width: d. classes: how many base classes.
    weight: w, the share of the second head in loss and answers. The default is ours.
    scale: what cosines are multiplied by: 100 in CLIP.

    Raises ConfigError for a weight that is no share.
    """

    def __init__(self, width: int, classes: int, *, weight: float = 0.7, scale: float = 100.0) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ConfigError(f"dept_decoupled_prompt_tuning: weight = {weight} is not between 0 and 1")
        self.weight, self.scale = weight, scale
        self.film_images, self.film_texts = Film(width), Film(width)
        self.classifier = nn.Linear(width, classes)

    def matching(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Scaled cosines of images and class texts, [n, classes]: the head that any prompt tuner has."""
        return self.scale * normalize(images, dim=-1) @ normalize(texts, dim=-1).T

    def loss(self, images: torch.Tensor, texts: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(1 - w) · the loss of the match + w · that of the classifier, for images of base classes whose
        numbers are `labels` [n]; the classifier is asked about each image and about the text of its class."""
        asked = torch.cat([self.film_images(images), self.film_texts(texts[labels])])
        apart = cross_entropy(self.classifier(asked), torch.cat([labels, labels]))
        return (1 - self.weight) * cross_entropy(self.matching(images, texts), labels) + self.weight * apart

    def base(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Probabilities of the base classes [n, classes]: the weighted sum of both heads'."""
        apart = self.classifier(self.film_images(images)).softmax(-1)
        return (1 - self.weight) * self.new(images, texts) + self.weight * apart

    def new(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Probabilities of classes which training had not, [n, classes]: those of the match alone."""
        return self.matching(images, texts).softmax(-1)
