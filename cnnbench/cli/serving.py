"""The command that searches the configuration of a service."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.common import EXIT_NOT_ALL_MEASURED, Json, console, select_cases
from cnnbench.cli.runs import Only, SuiteName
from cnnbench.suite.parse import checked, parse_bytes, parse_duration

app = typer.Typer()

TUNED = "tuned.yaml"


@app.command("tune-serving")
def tune_serving(
    suite: SuiteName,
    p99: Annotated[str, typer.Option(metavar="TIME", help="Bound of the 99th percentile of latency, such as 20ms.")],
    memory: Annotated[
        str | None, typer.Option(metavar="BYTES", help="The most that a configuration may hold, such as 2GiB.")
    ] = None,
    budget: Annotated[str, typer.Option(metavar="TIME", help="Time for the whole search.")] = "5m",
    only: Only = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; runs/tune-<suite>-<time> if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the search in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Search the sessions, threads, batch and queue delay that serve most queries per second within a bound of p99.

    Of the cases of the workload serving each model and backend is tuned once: all configurations under the same load
    for a short time, the best third three times as long, and the highest rate of the last two. Exit codes: 0 each has a
    configuration; 2 bad input; 3 one of them keeps the bound at no rate.

    Example: cnnbench tune-serving suites/serving.yaml --p99 20ms --only 'mobilenet_v2/*/ort/*'
    """
    import yaml

    from cnnbench.records import files
    from cnnbench.records.run_folder import new_folder
    from cnnbench.report import tuned
    from cnnbench.report.plain import print_json
    from cnnbench.report.terminal import Progress
    from cnnbench.runner.tasks.tune_serving import TuneRequest, targets, tune

    loaded, cases = select_cases(suite, only)
    request = TuneRequest(
        targets(cases),
        checked(parse_duration, p99, "--p99"),
        checked(parse_bytes, memory, "--memory") if memory else None,
        checked(parse_duration, budget, "--budget"),
        loaded.limit_s,
        out or new_folder(loaded, "tune-"),
    )
    request.open(resume=resume)
    with Progress(console()) as progress:
        found = tune(request, progress.doing)
    file = request.folder / TUNED
    content = tuned.suite_of_tuned(found, request.budget_s)
    files.write(file, yaml.safe_dump(content, sort_keys=False))
    if as_json:
        print_json([tuned.as_json(each) for each in found])
    else:
        typer.echo("\n".join(tuned.lines(found, str(file), "cnnbench run")))
    if any(each.finalists[0].valid is None for each in found):
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)
