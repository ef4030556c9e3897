"""The page from its parts: what is computed is handed to the templates, which only place it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from taskheads.report.kept import size
from taskheads.report.page import numbers
from taskheads.report.page.confusion import commonest, matrix
from taskheads.report.page.curves import charts
from taskheads.report.page.intervals import interval_plots
from taskheads.report.page.likeness import groups_of, likeness
from taskheads.report.page.outcomes import Outcome, answerers, outcomes
from taskheads.report.page.reliability import reliability
from taskheads.report.page.summary import summary

# What the score of an error is called above its column.
MEASURES = {
    "confidence": "confidence",
    "distance": "off by",
    "wrong labels": "labels wrong",
    "wrong tags": "tags wrong",
    "rank": "rank of the truth",
}


def page(report: Mapping[str, Any]) -> str:
    """A fitted model as one HTML page, complete in itself: it holds its styles, pictures and script, and
    loads nothing.

    Parameters
    ----------
    report: what is known of the model, as JSON-able data; any part may be missing or None.

        - title, created, backbone, version, hardware, tune: texts
        - stages: [{"name", "seconds", "peak_bytes"}]
        - tasks: {name: {"kind", "metric", "rows": {split: count}, "labels", "scores": {answerer: {"value",
          "low", "high"}}, "dev": {answerer: value}, "kept", "gain": {"value", "low", "high"}, "others":
          {metric: value}, "findings": see `taskheads.model.findings`}}. Answerers are "majority", "frozen",
          "alone", "shared" and "private"; gain is that of the kept answers over "frozen", higher is better.
        - curves: {"loss" | "dev": {task: [[step, value]]}, "tokens_per_second" | "learning_rate": [[step,
          value]]}
        - similarity: {"tasks": names, "gradient" | "representation": [[value]], "groups": [[names or
          positions]]}

    Returns
    -------
    The page. Every text of the report is escaped.
    """
    tasks = outcomes(report.get("tasks"))
    return (
        templates()
        .get_template("page.html")
        .render(
            facts=[
                (name, report[name])
                for name in ("created", "backbone", "hardware", "tune")
                if report.get(name)
            ],
            title=report.get("title") or "A model for several tasks",
            version=report.get("version"),
            summary=summary(report, tasks),
            tasks=tasks,
            details=[_details(task) for task in tasks],
            answerers=answerers(task.scores for task in tasks),
            plots=interval_plots(tasks),
            curves=_curves(report.get("curves") or {}, tasks),
            likeness=_likeness(report.get("similarity")),
            groups=groups_of(report.get("similarity")),
            stages=_stages(report),
        )
    )


@cache
def templates() -> Environment:
    """The templates of this folder, which escape every text."""
    made = Environment(
        loader=PackageLoader("taskheads.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        decimal=numbers.decimal,
        signed=numbers.signed,
        short=numbers.short,
        duration=numbers.duration,
        answer=_answer,
    )
    return made


def _details(task: Outcome) -> dict[str, Any]:
    """What a task's section shows below its facts."""
    errors = task.findings.get("errors") or {}
    # A row says what it knows of these.
    nothing: dict[str, Any] = {
        "inputs": {},
        "truth": "",
        "answer": "",
        "score": None,
        "file": "",
        "row": None,
    }
    rows = [
        {key: empty if row.get(key) is None else row[key] for key, empty in nothing.items()}
        for row in errors.get("rows") or ()
    ]
    return {
        "matrix": matrix(task.findings.get("confusion"), ordered=task.kind == "ordinal"),
        "commonest": commonest(task.findings.get("confusion")),
        "reliability": reliability(task.findings.get("reliability")),
        "errors": rows,
        "wrong": errors.get("wrong"),
        "columns": list(dict.fromkeys(column for row in rows for column in row["inputs"])),
        "measure": MEASURES.get(errors.get("measure") or "", errors.get("measure") or "score"),
    }


def _curves(found: Mapping[str, Any], tasks: list[Outcome]) -> list[tuple[str, str, list]]:
    """(title, what is drawn, charts) of every family of curves that has one."""
    frozen = {task.name: task.dev["frozen"] for task in tasks if "frozen" in task.dev}
    run = {"tokens a second": found.get("tokens_per_second"), "learning rate": found.get("learning_rate")}
    families = [
        ("Score on dev", "by step; the dashed line is the frozen head", charts(found.get("dev"), frozen)),
        ("Training loss", "by step, neighbouring steps averaged", charts(found.get("loss"))),
        ("The run", "by step", charts(run)),
    ]
    return [family for family in families if family[2]]


def _likeness(found: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    titles = {"gradient": "Cosine of gradients", "representation": "Tuned backbones, same rows (linear CKA)"}
    drawn = [(title, likeness(found, which)) for which, title in titles.items()]
    return [(title, drawing) for title, drawing in drawn if drawing is not None]


def _stages(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, seconds, share of the longest stage, and peak memory in words."""
    stages = report.get("stages") or []
    longest = max((stage.get("seconds") or 0 for stage in stages), default=0)
    return [
        {
            "name": stage.get("name") or "",
            "seconds": stage.get("seconds"),
            "share": (stage.get("seconds") or 0) / longest if longest else 0,
            "peak": size(stage["peak_bytes"]) if stage.get("peak_bytes") else numbers.MISSING,
        }
        for stage in stages
    ]


def _answer(value: Any) -> str:
    """A truth or an answer in a cell of a table."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return numbers.short(value) if isinstance(value, float) else str(value)
