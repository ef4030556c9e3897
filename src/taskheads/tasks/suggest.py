"""Did you mean …: the nearest name, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the option nearest to `word`, or `""` when none is near.

    Case is ignored in the comparison, since a name in the wrong case is the most common slip.
    """
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def listed(names: Iterable[object], limit: int = 12) -> str:
    """Join names for a message, in quotes, and say how many more there are beyond `limit`."""
    shown = [repr(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more
