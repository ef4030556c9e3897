"""Decoding held to a list of labels: the text-to-text way to classify."""

from __future__ import annotations

from collections.abc import Sequence

from taskheads.errors import ConfigError

_WHOLE = -1  # no token has this id: under it stands the number of the label that ends here


class LabelTrie:
    """What may come next, so that the tokens are labels of a list and nothing else, none of them twice
    (an `allowed` for `taskheads.backbone.generating.generate`).

    Parameters
    ----------
    labels: the token ids of each label. stop: the id that ends an answer.
    between: the id that stands between two labels; None for answers of one label.

    Attributes
    ----------
    longest: so many tokens an answer can have, the one that ends it included: with `most` no less than that
        no answer is cut off.

    Raises ConfigError for labels that cannot be told apart, and for one which holds `stop` or `between`.
    """

    def __init__(self, labels: Sequence[Sequence[int]], *, stop: int, between: int | None = None) -> None:
        self.stop, self.between = stop, between
        self._root: dict[int, dict | int] = {}
        for number, label in enumerate(labels):
            if not label or stop in label or between in label:
                raise ConfigError(f"label {number} has no tokens, or one that ends a label: {[*label]}")
            node = self._root
            for token in label:
                node = node.setdefault(token, {})  # type: ignore[assignment]
            if _WHOLE in node:
                raise ConfigError(f"labels {node[_WHOLE]} and {number} have the same tokens")
            node[_WHOLE] = number
        lengths = [len(label) + 1 for label in labels]
        self.longest = max(lengths, default=1) if between is None else sum(lengths)

    def __call__(self, row: int, so_far: Sequence[int]) -> list[int]:
        """The ids that may follow these tokens, for every row the same."""
        *whole, begun = self._parts(so_far)
        taken = {self._number(label) for label in whole}
        node = self._at(begun)
        found = [token for token in node if token != _WHOLE and _left(node[token], taken)]
        number = node.get(_WHOLE)
        if number is not None and number not in taken:
            found.append(self.stop)
            if self.between is not None and _left(self._root, {*taken, number}):
                found.append(self.between)
        return found

    def labels(self, answer: Sequence[int]) -> list[int]:
        """The numbers of the labels that an answer is made of, in its order. Raises ConfigError for an
        answer that is no such list."""
        return [self._number(label) for label in self._parts(answer)]

    def _parts(self, tokens: Sequence[int]) -> list[list[int]]:
        parts: list[list[int]] = [[]]
        for token in tokens:
            if token == self.between:
                parts.append([])
            else:
                parts[-1].append(token)
        return parts

    def _at(self, tokens: Sequence[int]) -> dict:
        node: dict | int = self._root
        for token in tokens:
            node = node.get(token, {}) if isinstance(node, dict) else {}
        assert isinstance(node, dict)
        return node

    def _number(self, label: Sequence[int]) -> int:
        number = self._at(label).get(_WHOLE)
        if number is None:
            raise ConfigError(f"the tokens {[*label]} are no label")
        return number


def _left(node: dict | int, taken: set[int]) -> bool:
    """Whether a label that is not taken ends here or further on."""
    if isinstance(node, int):
        return node not in taken
    return any(_left(each, taken) for each in node.values())
