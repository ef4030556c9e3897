"""Real data with no download: the documentation of the Python packages that are installed here.

    python demo/harvest.py --out runs/demo/data

Sources are read with `ast`, never imported. What the tasks ask is proved by the code: which library a
docstring is from, what it documents, which sections it has, how many parameters there are and which words
name them, what shares a module, which name belongs to which summary. Splits are by module: no module and no
text stands in two of them. The same packages give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import rows as r
import sources

# Well documented, and installed with taskheads itself. Those that are absent are left out.
LIBRARIES = (
    *("torch", "transformers", "datasets", "huggingface_hub", "sklearn", "scipy", "numpy", "pandas"),
    *("sympy", "mpmath", "networkx", "pydantic", "rich", "fsspec", "anyio", "jinja2", "narwhals"),
)
LIMIT = 6000

SUITE = """\
# Written by demo/harvest.py: the documentation of the installed Python packages. Splits are by module.
backbone: minilm
seed: 0
tasks:
  # Which library is it from? Its own name has been taken out of the text.
  library: {data: docs.jsonl, input: text, label: library, kind: classify, split: {column: split}}
  # Does it document a function, a class, a method or a property?
  thing: {data: docs.jsonl, input: text, label: thing, kind: classify, split: {column: split}}
  # Which sections follow this summary?
  sections: {data: docs.jsonl, input: text, label: sections, kind: multilabel, split: {column: split}}
  # How many parameters has it? 0 to 5, where 5 means "5 or more".
  parameters: {data: docs.jsonl, input: text, label: parameters, kind: ordinal, split: {column: split}}
  # How long is the whole docstring? The binary logarithm of its number of words.
  length: {data: docs.jsonl, input: text, label: length, kind: regress, split: {column: split}}
  # Which words of this sentence name parameters of the function it describes?
  names: {data: names.jsonl, input: words, label: tags, kind: tag, split: {column: split}}
  # Are these two summaries from one module?
  same_module: {data: pairs.jsonl, input: [first, second], label: same, kind: pair, split: {column: split}}
  # From the words of a name to its summary.
  find: {data: find.jsonl, input: [query, doc], kind: embed, split: {column: split}}
"""


def gather(site_packages: Path, libraries: tuple[str, ...] = LIBRARIES, limit: int = LIMIT) -> list[r.Entry]:
    """Documented items of the libraries that are present: as many of each, about `limit` in all."""
    present = [name for name in libraries if (site_packages / name).is_dir()]
    quota = max(1, limit // max(1, len(present)))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = pool.map(partial(_read_library, site_packages, quota), present)
        return r.distinct(entry for entries in found for entry in entries)


def _read_library(site_packages: Path, quota: int, library: str) -> list[r.Entry]:
    """The first `quota` usable entries; reading stops there, since parsing all of torch takes a while."""
    entries: list[r.Entry] = []
    for module, path in sources.modules(site_packages, library):
        entries += r.usable(sources.items(library, module, path))
        if len(entries) >= quota:
            break
    return entries[:quota]


def tables(entries: list[r.Entry], limit: int = LIMIT) -> dict[str, list[r.Row]]:
    """File name → rows. `docs` holds the tasks that share a text; each other task has half as many rows."""
    splits = r.split_modules(entries)
    made = {
        "docs.jsonl": r.known_labels(
            r.doc_rows(entries, splits), ("library", "thing", "sections", "parameters")
        ),
        "names.jsonl": r.name_rows(entries, splits),
        "pairs.jsonl": r.pair_rows(entries, splits, limit // 2),
        "find.jsonl": r.find_rows(entries, splits),
    }
    most = {"docs.jsonl": limit}
    return {name: _shuffled(rows)[: most.get(name, limit // 2)] for name, rows in made.items()}


def write(out: Path, files: dict[str, list[r.Row]]) -> None:
    """The tables as JSONL, and last the suite: where there is one, what it names is complete."""
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        text = "".join(_line(row) + "\n" for row in rows)
        (out / name).write_text(text, encoding="utf-8", newline="\n")
    (out / "tasks.yaml").write_text(SUITE, encoding="utf-8", newline="\n")


def summary(files: dict[str, list[r.Row]]) -> str:
    """A short table: rows by file and split."""
    lines = [f"{'file':<14}{'train':>8}{'dev':>8}{'test':>8}"]
    for name, rows in files.items():
        counts = Counter(row["split"] for row in rows)
        lines.append(f"{name:<14}" + "".join(f"{counts[split]:>8,}" for split in r.SHARES))
    libraries = Counter(row["library"] for row in files["docs.jsonl"])
    lines.append("from " + ", ".join(f"{name} {count}" for name, count in libraries.most_common()))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--limit", type=int, default=LIMIT, help="about how many docstrings (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    site_packages = Path(sysconfig.get_paths()["purelib"])
    entries = gather(site_packages, limit=options.limit)
    if not entries:
        print(f"no documented library found in {site_packages}", file=sys.stderr)
        return 2
    files = tables(entries, options.limit)
    write(options.out, files)
    print(summary(files))
    print(f"written to {options.out / 'tasks.yaml'}")
    return 0


def _shuffled(rows: list[r.Row]) -> list[r.Row]:
    """In an order of no meaning, but always the same: the first n are a fair sample."""
    return sorted(rows, key=lambda row: sources.stable(_line(row)))


def _line(row: r.Row) -> str:
    return json.dumps(row, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
