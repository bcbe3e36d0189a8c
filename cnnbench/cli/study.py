"""The command that tests claims about networks by training them."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli import common
from cnnbench.cli.common import Json
from cnnbench.report.plain import print_json

app = typer.Typer()


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="A study, such as suites/note.yaml.")],
    full: Annotated[bool, typer.Option("--full", help="With what stands below the file's `full`.")] = False,
    out: Annotated[Path | None, typer.Option(help="Its folder; runs/NAME-study if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Train and evaluate the networks of a study, and say which of its claims hold.

    What the folder has already is not done again, so that a study that was interrupted continues.

    Example: cnnbench study suites/note.yaml
    """
    from rich.progress import Progress

    from cnnbench.records import files
    from cnnbench.records.study_result import read_results
    from cnnbench.report import study as report
    from cnnbench.report.format import format_seconds
    from cnnbench.report.terminal import can_redraw
    from cnnbench.runner.tasks.study import run_study
    from cnnbench.suite.study import load_study

    loaded = load_study(file, "full" if full else "short")
    folder = out or Path("runs") / f"{loaded.name}-study"
    terminal = common.console()
    is_drawn = not as_json and can_redraw(terminal)
    with Progress(console=terminal, disable=not is_drawn, transient=True) as progress:
        bar = progress.add_task("training", total=None)

        def watch(what: str, done: int, total: int, left_s: float) -> None:
            left = f"about {format_seconds(left_s)} left"
            progress.update(bar, description=f"{what} done, {left}; runs", completed=done, total=total)
            if not as_json and not is_drawn:
                typer.echo(f"{done} of {total}, {left}: {what}")

        results = run_study(loaded, folder, watch)
    files.write(folder / "study.yaml", file.read_bytes())
    files.write(folder / "study.html", report.page(loaded, results, read_results(folder)[1]))
    if as_json:
        print_json([each.model_dump() for each in results.values()])
    else:
        typer.echo("\n".join([*report.text(loaded, results), f"page: {folder / 'study.html'}"]))
