"""What nothing cheaper does better: the Pareto front, and the outcome in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Told = Mapping[str, Any]

# Names in a sentence.
_MOST = 4


def quality_of(way: Told) -> float:
    """On test where that was seen, else on dev."""
    return way["test"]["mean"]["value"] if way.get("test") else way["quality"]


def idle(way: Told) -> bool:
    """Whether no task keeps what a way has tuned: its model is that of the frozen heads."""
    return way["method"] != "frozen" and all(kept == "frozen" for kept in way["kept"].values())


def front(ways: Sequence[Told], cost: str = "parameters") -> list[str]:
    """The keys of the ways that no other one matches at the same or a lower cost, cheapest first.

    Of ways alike in both, the first is on the front.
    """
    found: list[str] = []
    reached = float("-inf")
    for way in sorted(ways, key=lambda way: (way[cost], -quality_of(way))):
        if quality_of(way) > reached:
            found.append(way["key"])
            reached = quality_of(way)
    return found


def in_words(ways: Sequence[Told], best: str, merges: Sequence[str] = ()) -> list[str]:
    """The outcome in sentences: what is recommended and how sure that is, then the front, dearest first.

    merges: the keys of those that were better on dev than the recommended way.
    """
    by_key = {way["key"]: way for way in ways}
    top, where = by_key[best], "test" if by_key[best].get("test") else "dev"
    first = "best on dev" if not merges else "best on dev of what `taskheads fit` makes"
    said = [f"{top['name']} is recommended: {first}, and {quality_of(top):.3f} on {where} in the mean."]
    if merges:
        names = _listed([by_key[key]["name"] for key in merges])
        said.append(f"Better on dev, and made by `taskheads merge`: {names}.")
    same = [
        way["name"]
        for way in ways
        if way is not top and way.get("test") and not idle(way) and way["test"]["beside"]["high"] >= 0
    ]
    if same:
        said.append(f"On test, it cannot be told apart from {_listed(same)}, or they did better.")
    reference = max(ways, key=quality_of)
    for key in reversed(front(ways)):
        if by_key[key] is not reference:
            said.append(_on_front(by_key[key], reference))
    return said


def _on_front(way: Told, reference: Told) -> str:
    """What a cheaper way keeps of the best one."""
    kept = f"{way['name']} keeps {quality_of(way) / quality_of(reference):.1%} of {reference['name']}"
    kept = kept.replace("%", " %")
    if not way["parameters"]:
        return f"{kept} and trains nothing beside its heads; nothing is cheaper."
    share = 100 * way["parameters"] / reference["parameters"]
    return f"{kept} with {share:.2g} % of its parameters; nothing cheaper does better."


def _listed(parts: Sequence[str]) -> str:
    """The first few by name."""
    shown, more = list(parts[:_MOST]), len(parts) - _MOST
    if more > 0:
        shown.append(f"{more} others")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
