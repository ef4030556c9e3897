"""Parquet files and Hugging Face datasets, both of which are Arrow tables."""

from __future__ import annotations

import decimal
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskheads.errors import DataError
from taskheads.tasks.suggest import listed
from taskheads.tasks.table import Table

if TYPE_CHECKING:
    import datasets

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


def read_parquet(path: Path) -> Table:
    """Read a Parquet file; class labels stored as numbers by Hugging Face `datasets` become their names.

    Raises
    ------
    DataError: the file is not Parquet, or is cut off.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.ParquetFile(path).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as Parquet: {error}", file=path) from error
    metadata = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    columns = {
        name: _named(table.column(name).to_pylist(), _class_names(features.get(name)))
        for name in table.column_names
    }
    return Table(str(path), columns, list(range(1, table.num_rows + 1)))


def is_dataset_folder(path: Path) -> bool:
    """Tell whether a folder was written by `datasets`' `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def is_hub_name(name: str) -> bool:
    """Tell whether a text could be the name of a Hub dataset, `owner/name`, `name` or `owner/name:subset`."""
    return _HUB_NAME.fullmatch(name) is not None and not name.startswith(".")


def read_dataset_folder(path: Path) -> dict[str | None, Table]:
    """Read a folder written by `datasets`' `save_to_disk`: its splits by name, or None for the only one."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot be read as a Hugging Face dataset: {error}", file=path) from error
    return _tables(str(path), loaded)


def read_hub_dataset(name: str) -> dict[str | None, Table]:
    """Read a dataset from the Hugging Face Hub, `owner/name` or `owner/name:subset`, by its splits.

    Only data files are read: a dataset that needs code from its repository is refused by `datasets`. With
    `HF_HUB_OFFLINE=1` the copy in the local cache is used.

    Raises
    ------
    DataError: the Hub cannot be reached, or has no such dataset or subset.
    """
    import datasets
    import huggingface_hub

    repository, _, subset = name.partition(":")
    try:
        if not os.environ.get("HF_HUB_OFFLINE"):
            # One question first: `load_dataset` retries for half a minute before it gives up on a typo.
            huggingface_hub.HfApi().dataset_info(repository, timeout=10)
        loaded = datasets.load_dataset(repository, subset or None)
    except Exception as error:
        # The client's errors share no base class: OSError, ValueError and its HTTP library's own among them.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"is neither a file or folder here, nor could it be read from the Hugging Face Hub: {reason}",
            file=name,
        ) from error
    return _tables(name, loaded)


def only_table(name: str, tables: dict[str | None, Table]) -> Table:
    """Return the only table of a dataset.

    Raises
    ------
    DataError: it has several splits, which one table cannot hold.
    """
    if len(tables) > 1:
        raise DataError(f"the dataset has several splits ({listed(tables)}), not one table", file=name)
    return next(iter(tables.values()))


def _tables(name: str, loaded: datasets.Dataset | datasets.DatasetDict) -> dict[str | None, Table]:
    import datasets

    if not isinstance(loaded, datasets.DatasetDict):
        return {None: _table(name, loaded)}
    return {split: _table(f"{name} ({split})", dataset) for split, dataset in loaded.items()}


def _table(path: str, dataset: datasets.Dataset) -> Table:
    dataset = dataset.with_format(None)
    features = dataset.features.to_dict()
    columns = {
        column: _named(list(dataset[column]), _class_names(features[column]))
        for column in dataset.column_names
        if features[column].get("_type") not in ("Image", "Audio", "Video")
    }
    return Table(path, columns, list(range(1, len(dataset) + 1)))


def _class_names(feature: Any) -> list[str] | None:
    """The names behind the numbers of a `ClassLabel` column, or of a list of them."""
    if isinstance(feature, list):
        return _class_names(feature[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        return feature.get("names")
    if feature.get("_type") in ("Sequence", "List", "LargeList"):
        return _class_names(feature.get("feature"))
    return None


def _named(values: list[Any], names: list[str] | None) -> list[Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return [convert(item) for item in value]
        if isinstance(value, decimal.Decimal):
            return float(value)
        # datasets marks a label that is not known by -1.
        return value if names is None or value is None else names[value] if value >= 0 else None

    return [convert(value) for value in values]
