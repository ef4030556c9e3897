"""What an edit is: parameters of one task or of several, and the changes that they make to its rows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Change, MapChange
from taskheads.errors import ConfigError
from taskheads.methods import card_of, catalogue, resolve
from taskheads.tasks.suggest import did_you_mean

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Own:
    """What one task changes; every function sees the tokens of the task's own rows alone, end to end.

    sites: by site, what replaces what stands there. maps: by the name of a linear map or a norm of the model,
    what replaces its output, from its input and its output.
    prompt: vectors [length, embedding width] before each row's tokens, among the token embeddings.
    past: by layer, keys and values [length, key heads, head width] before those of each row; one length.
    """

    sites: Mapping[str, Change] = field(default_factory=dict)
    maps: Mapping[str, MapChange] = field(default_factory=dict)
    prompt: torch.Tensor | None = None
    past: Mapping[int, KeysValues] = field(default_factory=dict)

    @property
    def prompt_length(self) -> int:
        return 0 if self.prompt is None else len(self.prompt)

    @property
    def past_length(self) -> int:
        return next((len(keys) for keys, _ in self.past.values()), 0)


class Edit(nn.Module):
    """Parameters of some tasks, and what they change in the backbone for the rows of each.

    A subclass is made as `Method(backbone, tasks, **options)`; every option has a default and can be written
    as JSON. It does not keep the backbone. A new edit changes nothing: its first outputs are the backbone's.

    Class attributes
    ----------------
    shared: whether one edit serves several tasks; else each task has one of its own.
    lr: the learning rate that suits it, where the user says none.
    stages: in how many it trains; see `following`.

    Attributes
    ----------
    tasks: whom it serves. options: what it was made with, as `made` was given it.
    """

    shared: ClassVar[bool] = False
    lr: ClassVar[float] = 1e-3
    stages: ClassVar[int] = 1

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.options: dict[str, Any] = {}

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        """What `task` changes, about rows with so many tokens, prompts not counted."""
        raise NotImplementedError

    def rate_of(self, parameter: str) -> float:
        """The learning rate of a parameter, by name, as a factor of the edit's."""
        return 1.0

    def penalty(self) -> torch.Tensor | None:
        """What is added to the sum of the tasks' losses (which are in units of an uninformed answer's), after
        a forward pass in training; None for nothing."""
        return None

    def following(self, backbone: Backbone) -> Edit | None:
        """The edit of the next stage, for a method that trains in several; None when this was the last."""
        return None

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        """The weights of the backbone, by name, which do for every row what the edit does for `task`'s.

        Only those that differ. Raises ConfigError for a method that cannot be folded.
        """
        raise ConfigError(f"{self.method} cannot be folded into the weights of a backbone")

    def forget(self, task: str) -> None:
        """Serve this task no longer. Its parameters go where they are its own."""
        self.tasks.remove(task)

    @property
    def method(self) -> str:
        """The method's name."""
        return card_of(type(self)).name

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def edit_methods() -> list[str]:
    """The names of all methods that `made` can make: those of the family which are edits."""
    found = (card.name for card in catalogue() if card.family == "edits")
    return [name for name in found if _is_edit(resolve(name))]


def edit_class(method: str) -> type[Edit]:
    """The class of a method by name. Raises ConfigError, with the nearest name."""
    with suppress(ConfigError):  # the list of all takes far longer than one that is imported already
        if _is_edit(kind := resolve(method)):
            return kind  # type: ignore[return-value]
    known = edit_methods()
    raise ConfigError(f"no edit is called {method!r}{did_you_mean(method, known)}: {', '.join(known)}")


def _is_edit(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Edit)


def defaults_of(kind: type[Edit]) -> dict[str, Any]:
    """The options that a method takes, by name, with their defaults."""
    found: dict[str, Any] = {}
    for each in kind.__mro__:
        if "__init__" in vars(each):
            for name, given in inspect.signature(vars(each)["__init__"]).parameters.items():
                if given.kind is given.KEYWORD_ONLY:
                    found.setdefault(name, given.default)
    return found


def made(
    method: str, backbone: Backbone, tasks: Sequence[str], options: Mapping[str, Any] | None = None
) -> Edit:
    """A new edit of this method, for these tasks. Raises ConfigError for an unknown method or option."""
    kind = edit_class(method)
    options = dict(options or {})
    accepted = defaults_of(kind)
    for name in options:
        if name not in accepted:
            raise ConfigError(f"{method} has no option {name!r}{did_you_mean(name, accepted)}")
    edit = kind(backbone, tasks, **options)  # type: ignore[call-arg,arg-type]
    edit.options = options
    return edit.to(backbone.device).eval()
