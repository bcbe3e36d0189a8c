"""The search for the commit that changed a case's time."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.common import EXIT_INTERRUPTED, EXIT_NOT_ALL_MEASURED, console, select_timed
from cnnbench.cli.runs import Only, SuiteName
from cnnbench.errors import InputError
from cnnbench.suite.parse import checked, parse_duration

app = typer.Typer()


@app.command()
def bisect(
    suite: SuiteName,
    good: Annotated[str, typer.Option(metavar="REV", help="A revision before the change.")],
    bad: Annotated[str, typer.Option(metavar="REV", help="A revision after it.")] = "HEAD",
    only: Only = None,
    budget: Annotated[str, typer.Option(metavar="TIME", help="Time for the whole search.")] = "30m",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the order of launches.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; runs/bisect-<suite>-<time> if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the search in --out.")] = False,
) -> None:
    """Search the commit that made a case slower or faster, in the gate's own pairs; no single answer is trusted.

    Commits are the first parents between --good and --bad; those that cannot be built are stepped over. Exit codes: 0 a
    commit is named; 2 bad input; 3 none is: the time was spent, neighbours cannot be told apart, or nothing changed.

    Example: cnnbench bisect suites/gate.yaml --good v1.0 --bad main --only 'resnet_cifar/inference/*'
    """
    from cnnbench.gate.bisect import FOUND_FILE, BisectRequest, about_json
    from cnnbench.gate.bisect import bisect as search
    from cnnbench.records import files
    from cnnbench.records.run_folder import new_folder
    from cnnbench.report.bisected import lines
    from cnnbench.report.terminal import Progress
    from cnnbench.runner import git
    from cnnbench.runner.run import environment_of

    loaded, cases = select_timed(suite, only)
    if len(cases) != 1:
        names = ", ".join(case.id for case in cases[:5])
        raise InputError(f"--only: expected a pattern of one case; got one of {len(cases)}: {names}")
    if resume and out is None:
        raise InputError("--resume: expected --out with the folder of the search to continue; got none")
    here = Path.cwd()
    ends = []
    for option, revision in (("--good", good), ("--bad", bad)):
        try:
            ends.append(git.commit(here, revision))
        except git.GitError as error:
            raise InputError(
                f"{option}: expected a revision of the repository around here; got {revision!r}: {error}"
            ) from None
    try:
        commits = git.commits_between(here, ends[0].hash, ends[1].hash)
    except git.GitError as error:
        raise InputError(f"--good: expected a commit before --bad: {error}") from None
    seconds = checked(parse_duration, budget, "--budget")
    folder = out or new_folder(loaded, "bisect-")
    request = BisectRequest(loaded, cases[0], ends[0], commits, folder, environment_of(loaded, cases), seconds, seed)
    ranged = ["--good", ends[0].hash, "--bad", ends[1].hash, "--only", cases[0].id]
    again = shlex.join(["cnnbench", "bisect", suite, *ranged, "--out", str(folder), "--resume"])
    try:
        with Progress(console()) as progress:
            report = search(request, progress, resume=resume)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; continue with: {again}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    typer.echo("\n".join(lines(report, f"continue with: {again}")))
    files.write(folder / FOUND_FILE, about_json(report))
    if report.found is None:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)
