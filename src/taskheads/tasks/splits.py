"""Train, dev and test where the data does not say: by a column, or made, always the same way."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

from taskheads.errors import ConfigError, DataError
from taskheads.tasks.guess import Guess
from taskheads.tasks.guess.columns import column_facts, is_split
from taskheads.tasks.guess.names import SPLIT_NAMES
from taskheads.tasks.rows import Rows
from taskheads.tasks.suggest import listed
from taskheads.tasks.targets import has_label, is_similarity
from taskheads.tasks.task import SPLITS

if TYPE_CHECKING:
    from taskheads.tasks.config import SplitConfig

Need = tuple[int, str | None]


def split_rows(
    found: Mapping[str | None, Rows], config: SplitConfig, tasks: Sequence[Guess], *, own: bool = True
) -> tuple[dict[str, Rows], list[str]]:
    """Give every split its rows, for all `tasks` on the same data at once, and say how in sentences.

    Splits that files hold stay as they are. A file whose split is not said is divided by the column that
    `config` names, or by one whose every value is the name of a split. What is then missing of dev and
    test is made from train, by `assign`: rows alike in `config.group` (else in all inputs of the tasks)
    stay together, and the labels of the first task that has classes are spread evenly.

    Raises
    ------
    DataError: a column is missing, a value of the split column is not a split, or the rows are too few.
    ConfigError: a split is asked for that a file already holds. Not if `own` is False: what is said for a
        whole suite is used where it applies.
    """
    reasons: list[str] = []
    rows = {split: found[split] for split in SPLITS if split in found}
    if None in found:
        rows, reasons = _by_column(found[None], config.column)
    elif config.column is not None and own:
        raise ConfigError(
            f"`split` names the column {config.column!r}, but files already hold {listed(rows)}"
        )
    for split in ("dev", "test"):
        if own and split in rows and split in config.model_fields_set:
            raise ConfigError(f"`split` asks for {split} rows to be made, but the data already has them")
    missing = [split for split in ("dev", "test") if split not in rows]
    if not missing or "train" not in rows:
        return rows, reasons
    train = rows["train"]
    shares = {split: getattr(config, split) for split in missing}
    needed = _needed(train, tasks)
    identities = _identities(train, config.group, tasks)
    places = assign(identities, _strata(train, tasks), needed, shares, seed=config.seed)
    for number, task in enumerate(tasks):
        held = {place for place, things in zip(places, needed, strict=True) if (number, None) in things}
        if held and not held.issuperset(missing):
            raise DataError(
                f"{len(train)} rows of {len(set(identities))} different {config.group or 'texts'} cannot be "
                f"divided into train and {listed(missing)}: too few, or too few that share a label; give dev "
                "and test files of your own",
                file=train.path,
                column=task.label,
            )
    for split in ("train", *missing):
        rows[split] = train.take(i for i, place in enumerate(places) if place == split)
    how = f"rows alike in {config.group!r} together" if config.group else "rows of the same text together"
    made = " and ".join(f"{split} ({shares[split]:.0%})" for split in missing)
    reasons.append(f"{made} made from train, seed {config.seed}, {how}")
    return rows, reasons


def assign(
    identities: Sequence[str],
    strata: Sequence[str],
    needed: Sequence[frozenset[Need]],
    shares: Mapping[str, float],
    *,
    seed: int = 0,
) -> list[str]:
    """Say for each row whether it is for train or for one of the splits of `shares`.

    Rows of one identity stay together. They are ordered by stratum and, within it, by a hash of seed and
    identity, which neither the machine nor the order of the file changes; going along, each goes to the
    split that is furthest behind its share, which spreads every stratum as evenly as its size allows. (The
    stratum of several rows is their most common one; a stratum that cannot be divided stays in train.)
    Then rows go back to train until all that is `needed`, (task, label) or (task, None) for any row of the
    task, occurs there; and a split without a row of some task is given one that train can spare.
    """
    members: dict[str, list[int]] = {}
    for i, identity in enumerate(identities):
        members.setdefault(identity, []).append(i)
    stratum = {identity: _most_common(strata[i] for i in rows) for identity, rows in members.items()}
    needs = {identity: [need for i in rows for need in needed[i]] for identity, rows in members.items()}
    hashed = {identity: _digest(seed, identity) for identity in members}
    order = sorted(members, key=lambda identity: (stratum[identity], hashed[identity]))

    sizes = Counter(stratum.values())
    targets = {**shares, "train": 1 - sum(shares.values())}
    given = dict.fromkeys(targets, 0)
    place: dict[str, str] = {}
    seen = 0
    for identity in order:
        place[identity] = "train"
        if sizes[stratum[identity]] > 1 or len(sizes) == 1:
            seen += len(members[identity])
            behind = {split: share * seen - given[split] for split, share in targets.items()}
            place[identity] = max(behind, key=lambda split: behind[split])
            given[place[identity]] += len(members[identity])

    in_train = Counter(need for identity in order if place[identity] == "train" for need in needs[identity])
    for identity in order:
        if place[identity] != "train" and any(not in_train[need] for need in needs[identity]):
            place[identity] = "train"
            in_train.update(needs[identity])

    smallest = sorted(order, key=lambda identity: (len(members[identity]), hashed[identity]))
    has_task = [need for need in in_train if need[1] is None]
    for split, task in product(shares, has_task):
        if any(place[identity] == split and task in needs[identity] for identity in order):
            continue
        for identity in smallest:
            own = Counter(needs[identity])
            if place[identity] == "train" and task in own and all(in_train[n] > own[n] for n in own):
                place[identity] = split
                in_train.subtract(own)
                break
    return [place[identity] for identity in identities]


def _most_common(values: Iterable[str]) -> str:
    return min(Counter(values).items(), key=lambda item: (-item[1], item[0]))[0]


def _digest(seed: int, identity: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{identity}".encode(errors="surrogatepass"), digest_size=16).digest()


def _by_column(rows: Rows, column: str | None) -> tuple[dict[str, Rows], list[str]]:
    why = "as stated"
    if column is None:
        facts = column_facts(rows)
        column = next((name for name in facts if is_split(facts[name], rows.columns[name])), None)
        why = "its values are names of splits"
        if column is None:
            return {"train": rows}, []
    indices: dict[str, list[int]] = {}
    for i, value in enumerate(rows.column(column)):
        split = SPLIT_NAMES.get(str(value).strip().lower())
        if split is None:
            raise rows.error(f"not a split: {listed(SPLIT_NAMES)} are", i, column)
        indices.setdefault(split, []).append(i)
    ordered = {split: rows.take(indices[split]) for split in SPLITS if split in indices}
    return ordered, [f"column {column!r} says each row's split ({why})"]


def _identities(rows: Rows, group: str | None, tasks: Sequence[Guess]) -> list[str]:
    names = [group] if group else list(dict.fromkeys(name for task in tasks for name in task.inputs))
    columns = [rows.column(name) for name in names]
    identities = []
    for i in range(len(rows)):
        values = [column[i] for column in columns]
        if all(value is None for value in values):
            if group:
                raise rows.error("a row without a group", i, group)
            values = list(rows.sources[i])
        identities.append(json.dumps(values, default=str))
    return identities


def _strata(rows: Rows, tasks: Sequence[Guess]) -> list[str]:
    """For each row the class by which it is spread: of the first task with classes that labels the row.

    Of several labels it is the rarest, since rare labels are those that an even spread is about.
    """
    strata = [""] * len(rows)
    for number, task in enumerate(tasks):
        values = rows.column(task.label) if task.label else []
        if task.kind not in ("classify", "ordinal", "multilabel", "pair"):
            continue
        if task.kind == "pair" and is_similarity(values):
            continue
        lists = [value if isinstance(value, list) else [value] for value in values]
        counts = Counter(str(label) for labels in lists for label in labels)
        for i, labels in enumerate(lists):
            if not strata[i] and labels and has_label(values[i]):
                rarest = min(map(str, labels), key=lambda label: (counts[label], label))
                strata[i] = f"{number}={rarest}"
    return strata


def _needed(rows: Rows, tasks: Sequence[Guess]) -> list[frozenset[Need]]:
    """What each row has that must occur in train: the labels of every task, and of each task some rows."""
    needed: list[set[Need]] = [set() for _ in range(len(rows))]
    for number, task in enumerate(tasks):
        values = rows.column(task.label) if task.label else [True] * len(rows)
        numeric = task.kind == "regress" or (task.kind == "pair" and is_similarity(values))
        for things, value in zip(needed, values, strict=True):
            if not has_label(value):
                continue
            things.add((number, None))
            if task.label and not numeric:
                things.update(
                    (number, str(label)) for label in (value if isinstance(value, list) else [value])
                )
    return [frozenset(things) for things in needed]
