"""The answers of a cluster: a Ray Data job whose workers each hold the model."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from taskheads.bulk.blocks import Block
from taskheads.bulk.job import Answered, Job, answered
from taskheads.errors import ConfigError, DataError

# A small model gains little from more processors, and each worker holds a model of its own.
_PROCESSORS = 4


def answered_by_ray(
    job: Job, workers: int | None = None, done: int = 0, digest: str = ""
) -> Iterator[Answered]:
    """The answers to the rows after the `done` first ones, block by block in the order of the rows.

    Ray Data streams them: one task on this machine reads the rows, workers anywhere answer them, and never
    are more than a few blocks on their way. The blocks are those of a single process, so the answers are its
    own, up to what other processors round otherwise. The cluster is the one of `RAY_ADDRESS`, else one on
    this machine, else a new one on this machine that ends with the job. The model's folder must have the same
    path everywhere; the rows need be here alone.

    Parameters
    ----------
    workers: how many processes answer; by default one for each four processors, at least one.

    Raises
    ------
    ConfigError: Ray is not installed, the rows come from a pipe, or there are more workers than processors.
    """
    if job.source == "-":
        raise ConfigError("a cluster cannot read a pipe: give a file (--input)")
    job = replace(job, folder=_everywhere(job.folder), source=_everywhere(job.source))
    with _cluster() as (here, processors):
        if workers is not None and workers > processors:
            raise ConfigError(f"{workers} workers need as many processors; the cluster has {processors}")
        workers = workers or max(1, processors // _PROCESSORS)
        yield from _answers(job, here, workers, processors // workers, done, digest)


def _answers(
    job: Job, here: dict[str, float], workers: int, processors: int, done: int, digest: str
) -> Iterator[Answered]:
    import ray.data

    def read(_batch: Any) -> Iterator[dict[str, list[str]]]:
        try:
            for block in job.blocks(done, digest):
                yield {"block": [json.dumps({"rows": vars(block)}, default=_not_text)]}
        except DataError as error:
            yield {"block": [json.dumps({"error": _told(error)})]}

    start = ray.data.from_items([{"start": done}])
    # One block of ours in one of Ray's, so that a block goes to whichever worker is free.
    start.context.target_max_block_size = 1
    start.context.execution_options.preserve_order = True
    start.context.enable_progress_bars = False
    # What only reads waits most of the time, and takes no processor from those that answer.
    answers = start.map_batches(read, batch_size=1, num_cpus=0, resources=here).map_batches(
        Worker,
        fn_constructor_args=(job,),
        batch_size=1,
        num_cpus=processors,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    for row in answers.iter_rows():
        made = json.loads(row["made"])
        if "error" in made:
            raise DataError(**made["error"])
        yield Answered(**made["answered"])


class Worker:
    """A process of the cluster that holds the model and answers blocks, all as JSON."""

    def __init__(self, job: Job) -> None:
        from taskheads.model.model import Model

        self._job, self._model = job, Model.load(job.folder)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        return {"made": [self._answer(text) for text in batch["block"]]}

    def _answer(self, text: str) -> str:
        read = json.loads(text)
        if "error" in read:
            return text
        try:
            made = answered(self._model, self._job, Block(**read["rows"]))
        except DataError as error:
            return json.dumps({"error": _told(error)})
        return json.dumps({"answered": vars(made)})


@contextmanager
def _cluster() -> Iterator[tuple[dict[str, float], int]]:
    """The resource that only this machine has, and how many processors the cluster has."""
    # Nothing is told to anybody about the use of the package unless the user says so.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError(
            f"the engine ray needs the package {error.name}, which is not here: "
            "pip install 'taskheads[distributed]'"
        ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ours = not ray.is_initialized()
    if ours:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        here = {f"node:{ray.util.get_node_ip_address()}": 0.001}
        yield here, int(ray.cluster_resources().get("CPU", 0))
    finally:
        if ours:
            ray.shutdown()


def _everywhere(name: str) -> str:
    """A path that does not depend on where a process runs; what is no path stays as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _told(error: DataError) -> dict[str, Any]:
    """An error as the keywords that make it again."""
    value = {} if error.value is None else {"value": error.value}
    return {
        "problem": error.problem,
        "file": error.file if error.file is None else str(error.file),
        "row": error.row,
        "column": error.column,
        **value,
    }


def _not_text(value: Any) -> Any:
    raise DataError(f"a text is needed, this is {type(value).__name__}")
