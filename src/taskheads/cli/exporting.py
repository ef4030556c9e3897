"""`taskheads export`: a model for runtimes that know nothing of taskheads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskheads.cli.arguments import Folder
from taskheads.errors import ConfigError

if TYPE_CHECKING:
    from taskheads.export.onnx import Exported


def export(
    folder: Folder,
    onnx: Annotated[Path, typer.Option("--onnx", metavar="OUT", help="The folder to write the graph to.")],
    int8: Annotated[bool, typer.Option("--int8", help="Also a variant with int8 weights, judged.")] = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="SUITE", help="What to judge on, if not what the model was fitted on."),
    ] = None,
) -> None:
    """Write a model as one ONNX graph with the outputs of all tasks.

    ONNX Runtime runs it before it is handed out: it has to say what the model says. With --int8, the scores
    of both variants on the test rows stand beside each other.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"exporting needs {error.name}: pip install 'taskheads[onnx]'") from None

    from taskheads import load
    from taskheads.export.onnx import write_onnx

    model = load(folder)
    rows = model.labelled(data) if int8 or data is not None else None
    _show(write_onnx(model, onnx, int8=int8, rows=rows))


def _show(exported: Exported) -> None:
    from taskheads.cli.output import show
    from taskheads.report.variants import variants_table

    if any(exported.scores.values()):
        show(variants_table(exported.scores))
    worst = max(exported.gaps.values())
    files = ", ".join(
        f"{name} ({(exported.folder / name).stat().st_size / 1e6:.1f} MB)" for name in exported.scores
    )
    print(f"{files} in {exported.folder}; ONNX Runtime differs from the model by {worst:.0e} at most")
