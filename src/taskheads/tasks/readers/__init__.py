"""One table from one file, whatever its format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from taskheads.errors import DataError
from taskheads.tasks.readers import arrow, conll, delimited, json_files
from taskheads.tasks.suggest import did_you_mean, listed
from taskheads.tasks.table import Table

READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": delimited.read_delimited,
    ".tsv": delimited.read_delimited,
    ".jsonl": json_files.read_json_lines,
    ".ndjson": json_files.read_json_lines,
    ".json": json_files.read_json,
    ".parquet": arrow.read_parquet,
    ".conll": conll.read_conll,
    ".conllu": conll.read_conll,
    ".iob": conll.read_conll,
    ".bio": conll.read_conll,
    ".txt": conll.read_conll,
}


def read_table(path: str | Path) -> Table:
    """Read a file, a dataset folder or a Hub dataset into a table; the ending of the name tells the format.

    `.csv .tsv .jsonl .ndjson .json .parquet`, CoNLL columns as `.conll .conllu .iob .bio .txt`, a folder
    written by Hugging Face `datasets` (`save_to_disk`), and, for a name which is no path, a dataset on
    the Hub. Each reader says how values become Python values.

    Raises
    ------
    DataError: there is no such file, its format is not known, it cannot be read, or it has no rows.
    """
    name, path = str(path), Path(path)
    if path.is_dir():
        if not arrow.is_dataset_folder(path):
            raise DataError("is a folder, not a file", file=path)
        table = arrow.only_table(name, arrow.read_dataset_folder(path))
    elif path.is_file():
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise DataError(f"cannot read {path.suffix!r} files: {listed(READERS)} can be read", file=path)
        table = reader(path)
    elif looks_like_hub_name(name):
        table = arrow.only_table(name, arrow.read_hub_dataset(name))
    else:
        raise missing(path)
    if not table.rows:
        raise DataError("the file has no rows", file=path)
    return table


def looks_like_hub_name(name: str) -> bool:
    """Tell whether a name that is nothing on disk may be a Hub dataset: at most one slash, no file ending."""
    return Path(name).suffix.lower() not in READERS and arrow.is_hub_name(name)


def missing(path: Path) -> DataError:
    """The error for a path that is not there, with the nearest name in its folder."""
    if not path.parent.is_dir():
        return DataError(f"no such file: there is no folder {str(path.parent)!r}", file=path)
    return DataError(
        f"no such file or folder{did_you_mean(path.name, (p.name for p in path.parent.iterdir()))}", file=path
    )
