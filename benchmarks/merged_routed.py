"""Twin-Merging for `merged_tasks.py`: each test row answered by the weights that a router gives it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from joint import SCORED_BY

RANK = 16
SCALE = 0.3  # of the task arithmetic which all rows share


class Routed:
    """The shared trunk, what each of the models has beyond it at rank `RANK`, and a router between them.

    The router learns from the train rows: from the mean of the shared trunk's last layer to the model that
    was tuned on such rows. It is asked for one model a row, and told nothing of the test rows' tasks.
    """

    def __init__(self, sources: Any, tasks: dict[str, Any], work: Path) -> None:
        from taskheads.merging.files.as_torch import AsTorch
        from taskheads.merging.files.checkpoint import Checkpoint
        from taskheads.merging.routed.twin import TwinMerging
        from taskheads.merging.with_heads import merged_by_data

        told = {"method": "task_arithmetic", "options": {"scale": SCALE}, "keep": None}
        self.sources = replace(sources, plan=sources.plan.model_copy(update=told))
        self.trunk = merged_by_data(self.sources, tasks, work)
        shared = {name: each.detach() for name, each in self.trunk.model.named_parameters()}
        models = [AsTorch(Checkpoint(entry.path)) for entry in sources.plan.models]
        self.router = self._router(tasks)
        self.twin = TwinMerging(shared, models, self.router, rank=RANK)

    def scores(self, suite: Any) -> dict[str, float]:
        """Of every task, on its test rows."""
        import torch

        from probes import judge, truths
        from taskheads.merging.trunks import model_of

        routes = {
            name: self.router(self._embedded(data, "test")).argmax(-1) for name, data in suite.tasks.items()
        }
        answers: dict[str, list[Any]] = {name: [None] * len(routes[name]) for name in routes}
        trunk = self.sources.backbone(self.sources.plan.models[0].path)
        model = model_of(self.sources, trunk)
        for number, one_hot in enumerate(torch.eye(len(self.sources.plan.models))):
            trunk.model.load_state_dict(self.twin.weights_for(one_hot), strict=False)
            for name, data in suite.tasks.items():
                mine = (routes[name] == number).nonzero().flatten().tolist()
                rows = [
                    {
                        column: data.splits["test"].inputs[at][row]
                        for at, column in enumerate(data.task.inputs)
                    }
                    for row in mine
                ]
                for row, answer in zip(mine, model.predict(rows, tasks=[name]) if rows else [], strict=True):
                    answers[name][row] = answer[name][SCORED_BY[data.task.kind]]
        found = {}
        for name, data in suite.tasks.items():
            told = truths(data.task, replace(data.splits["test"], targets=answers[name]))
            found[name] = judge(data.task).compute(truths(data.task, data.splits["test"]), told)
        return found

    def _router(self, tasks: dict[str, Any]) -> Any:
        import torch

        from taskheads.merging.routed.twin import Router

        embedded = [self._embedded(data, "train") for data in tasks.values()]
        owners = [self.sources.owner[name] for name in tasks]
        numbers = torch.cat(
            [torch.full((len(each),), owner) for each, owner in zip(embedded, owners, strict=True)]
        )
        router = Router(self.trunk.width, len(self.sources.plan.models), hard=True)
        router.fit(torch.cat(embedded), numbers)
        return router.requires_grad_(False)

    def _embedded(self, data: Any, split: str) -> Any:
        """The mean of the shared trunk's last layer, of the rows' texts."""
        from taskheads.backbone.features import extract
        from taskheads.backbone.reads import Read

        read = Read("output", "mean")
        return extract(self.trunk, "text", list(data.splits[split].inputs[0]), [read])[read]
