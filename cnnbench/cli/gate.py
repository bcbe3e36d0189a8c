"""The gate: head against base with an exit code for CI, and the calibration of its detection power."""

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli.common import EXIT_INTERRUPTED, EXIT_NOT_ALL_MEASURED, console, select_cases, select_timed
from cnnbench.cli.history import keep
from cnnbench.cli.runs import Only, SuiteName
from cnnbench.errors import CnnbenchError, InputError
from cnnbench.suite.parse import checked, parse_duration, parse_percent

if TYPE_CHECKING:
    from cnnbench.analysis.paired import Rule, Verdict
    from cnnbench.gate.calibration import Calibration
    from cnnbench.gate.run import GateReport, GateRequest

app = typer.Typer()

Budget = Annotated[str, typer.Option(metavar="TIME", help="Time for the whole gate; launches are shortened to fit.")]
Margin = Annotated[str, typer.Option(metavar="PERCENT", help="A slowdown up to this is no regression.")]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", metavar="FILE", help="Calibration file; the cached one if not given.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the order of launches.")]
HistoryFolder = Annotated[
    Path | None, typer.Option("--history", metavar="DIR", help="Add what is measured to this history's folder.")
]
Out = Annotated[Path | None, typer.Option(help="The folder to write; runs/gate-<suite>-<time> if not given.")]


@app.command()
def gate(
    suite: SuiteName,
    base: Annotated[
        str | None,
        typer.Option(help="`.`, a Python interpreter, a git revision, or settings such as runtime=eager,threads=1."),
    ] = None,
    head: Annotated[str, typer.Option(help="As --base; this environment if not given.")] = ".",
    baseline: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A stored run of this machine, in place of --base; weaker.")
    ] = None,
    margin: Margin = "2%",
    budget: Budget = "10m",
    only: Only = None,
    inject: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Slow head down on purpose, to test the gate.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 if a case is inconclusive.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Do not fail for a case that cannot run in one arm.")
    ] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compare exact figures: counts, graphs, the memory formula.")
    ] = False,
    expect: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --exact: their file; SUITE.expect.yaml if not given.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="With --exact: write the file.")] = False,
    calibration: CalibrationFile = None,
    history: HistoryFolder = None,
    link: Annotated[
        str | None,
        typer.Option(
            metavar="REV", help="With --history: the older commit that each twentieth gate is measured against too."
        ),
    ] = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Test whether head is slower than base. Both are measured in this job, in interleaved launches.

    Exit codes: 0 no confirmed regression; 1 a confirmed regression; 2 bad input; 3 a case is missing or wrong, or
    nothing was measured; 4 inconclusive, with --strict; 130 interrupted. With --inject: 0 if the slowdown was detected
    in every case, else 3. With --exact: 0, or 3 if a figure differs.

    Example: cnnbench gate suites/smoke.yaml --exact
    Example: cnnbench gate suites/smoke.yaml --base main --head .
    Example: cnnbench gate suites/smoke.yaml --base old/bin/python --head new/bin/python --only '*/inference/*'
    Example: cnnbench gate suites/smoke.yaml --inject 5%
    """
    from cnnbench.analysis.paired import Rule
    from cnnbench.gate.calibration import check_margin
    from cnnbench.gate.run import measure_gate, write_verdicts
    from cnnbench.gate.verdict import EXIT_NOT_MEASURED, EXIT_OK, exit_code_of
    from cnnbench.history.collect import check_commits, entries_of
    from cnnbench.history.link import link_due, link_of
    from cnnbench.history.store import read_history
    from cnnbench.report.terminal import Progress

    if exact:
        _exact(suite, expect, history, update=update)
        return
    if expect or update:
        raise InputError("--expect, --update: expected them with --exact; got them without")
    slowdown = checked(parse_percent, inject, "--inject") if inject else 0.0
    rule = Rule(margin=checked(parse_percent, margin, "--margin"))
    if base and baseline:
        raise InputError("--baseline: expected it without --base; got both")
    if base is None and not inject and baseline is None:
        raise InputError(
            "--base: expected `.`, a Python interpreter, a git revision, or settings such as runtime=eager; "
            "got none; or give --baseline with a stored run, or --inject 5% to test the gate"
        )
    if history and (inject or baseline):
        raise InputError("--history: expected --base and --head; got a gate that says nothing of two commits")
    if link and not history:
        raise InputError("--link: expected it with --history; got it without")
    tie = link_of(link, Path.cwd()) if link else None
    serves = history is None  # a history's figures are times of calls, which services have none of
    with _open_request(suite, base or ".", head, only, budget, seed, out, slowdown, serves=serves) as request:
        if history:
            check_commits(request, Path.cwd())
        known = _calibration(request, calibration)
        if baseline is not None:
            verdicts = _with_baseline(request, baseline, known, rule)
            raise typer.Exit(exit_code_of(verdicts, strict=strict, allow_missing=allow_missing))
        if known:
            check_margin(known, request.comparisons, rule)
        with Progress(console()) as progress:
            gate_report = measure_gate(request, progress, rule)
    _attempt(partial(write_verdicts, request, gate_report))
    _show(gate_report, ["cnnbench", "gate", suite, "--base", base or ".", "--head", head, "--margin", margin])
    if history:
        keep(history, entries_of(request.folder, Path.cwd()))
        if older := link_due(read_history(history), request.environment.fingerprint, tie):
            typer.echo(f"the chain is tied to {older[:12]}, which head is measured against too:")
            tied = request.folder.with_name(f"{request.folder.name}-link")
            try:
                asked = _open_request(suite, older, head, only, budget, seed, tied)
                with asked as linked, Progress(console()) as progress:
                    link_report = measure_gate(linked, progress, rule)
                _attempt(partial(write_verdicts, linked, link_report))
                keep(history, entries_of(tied, Path.cwd()))
            except CnnbenchError as error:
                typer.echo(f"warning: not tied to {older[:12]}: {error}; --link names another commit", err=True)
    if inject:
        detected, cases = gate_report.result.count("slower"), len(gate_report.result.cases)
        typer.echo(f"head was slowed down by {slowdown:.2%}: detected in {detected} of {cases} cases")
        raise typer.Exit(EXIT_OK if cases and detected == cases else EXIT_NOT_MEASURED)
    raise typer.Exit(gate_report.result.exit_code(strict=strict, allow_missing=allow_missing))


@app.command()
def calibrate(
    suite: SuiteName,
    pairs: Annotated[int, typer.Option(min=6, help="Pairs of launches of each case.")] = 20,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="Time for all pairs; launches are shortened to fit.")
    ] = "20m",
    margin: Margin = "2%",
    only: Only = None,
    calibration: CalibrationFile = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; runs/calibrate-<suite>-<time> if not given.")
    ] = None,
) -> None:
    """Measure the noise of each case on this machine, from pairs of the same code, and the gate's detection power.

    Each calibration adds to the earlier ones. A stored baseline needs three, made at different times.

    Example: cnnbench calibrate suites/smoke.yaml
    """
    from random import Random

    from cnnbench.analysis.paired import Rule
    from cnnbench.gate.calibration import detection_power_of, empty, file_of, session_of, write_calibration
    from cnnbench.gate.run import measure_all
    from cnnbench.report.calibrated import lines, table_of_calibration
    from cnnbench.report.terminal import Progress, print_tables

    rule = Rule(margin=checked(parse_percent, margin, "--margin"))
    with _open_request(suite, ".", ".", only, budget, seed, out, kind="calibrate-") as request:
        _calibration(request, calibration)  # what is wrong with it is told before anything is measured
        with Progress(console()) as progress:
            found, skipped = measure_all(request, progress, ["base", "head"], pairs, Random(seed))
    sessions = {name: session_of(measured) for name, measured in found.items() if measured}
    before = _calibration(request, calibration) or empty(request.environment)  # with what others have added meanwhile
    after = before.with_sessions({name: session for name, session in sessions.items() if session.logs})
    file = calibration or file_of(request.environment)
    write_calibration(file, after)
    power = detection_power_of(after, request.comparisons, rule)
    print_tables(console(), [table_of_calibration(after, power, rule)])
    typer.echo("\n".join([*lines(power, found, skipped), f"kept in {file}"]))
    if not power.seen:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)


@contextmanager
def _open_request(
    suite: str,
    base: str,
    head: str,
    only: list[str] | None,
    budget: str,
    seed: int,
    out: Path | None,
    slowdown: float = 0.0,
    kind: str = "gate-",
    *,
    serves: bool = True,
) -> "Iterator[GateRequest]":
    """What the options ask for, while both arms are open. An interrupt ends the command with a message."""
    from cnnbench.gate.arms import open_arms
    from cnnbench.gate.run import GateRequest
    from cnnbench.records.run_folder import new_folder
    from cnnbench.runner.run import environment_of

    try:
        with open_arms(base, head) as arms:
            loaded, cases = (select_cases if serves else select_timed)(suite, only)
            about = environment_of(loaded, cases)
            seconds = checked(parse_duration, budget, "--budget")
            folder = out or new_folder(loaded, kind)
            request = GateRequest(loaded, cases, *arms, folder, about, seconds, seed, slowdown)
            try:
                yield request
            finally:
                request.kept.flush()
                if request.kept.fault:
                    typer.echo(f"warning: {request.kept.fault}; not all pairs are on disk", err=True)
    except KeyboardInterrupt:
        typer.echo("interrupted; what was measured is in the gate's folder", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _calibration(request: "GateRequest", file: Path | None) -> "Calibration | None":
    """This machine's, if there is one. Raises InputError for a file in no folder, or of another machine."""
    from cnnbench.gate.calibration import file_of, read_calibration

    found = read_calibration(file or file_of(request.environment))
    if found is None and file is not None and not file.parent.is_dir():
        raise InputError(f"--calibration: expected a file in a folder that exists; got {file}")
    if found and found.fingerprint != request.environment.fingerprint:
        raise InputError(
            f"--calibration: {file}: it was measured on another machine, {found.machine}; run `cnnbench calibrate` here"
        )
    return found


def _with_baseline(
    request: "GateRequest", baseline: Path, known: "Calibration | None", rule: "Rule"
) -> "list[Verdict]":
    """Measure head and compare it with a stored run; returns the verdicts."""
    from random import Random

    from cnnbench.gate.baseline import compare_with_baseline, read_baseline
    from cnnbench.gate.run import SUMMARY, measure_all
    from cnnbench.report import verdicts
    from cnnbench.report.terminal import Progress, print_tables

    run = read_baseline(baseline, request.environment)
    with Progress(console()) as progress:
        found, skipped = measure_all(request, progress, ["head"], rule.screen_pairs, Random(request.seed))
    results = compare_with_baseline(run, found, known, rule)
    table = verdicts.baseline_table(results, skipped, rule)
    print_tables(console(), [table])
    _write_summary(request.folder / SUMMARY, verdicts.baseline_summary(table, baseline))
    return [result.verdict for result in results]


def _exact(suite: str, expect: Path | None, history: Path | None, *, update: bool) -> None:
    """Print differences and the lines that the file would need, or write it. Raises typer.Exit(3) on a difference."""
    from cnnbench.gate.exact import check_exact, expectation_file, find_figures, write_expectation
    from cnnbench.history.collect import entries_of_exact, present_commit
    from cnnbench.report.verdicts import exact_lines
    from cnnbench.suite.load import load_suite

    loaded, doing = load_suite(suite), partial(typer.echo, err=True)
    file = expect or expectation_file(loaded)
    if update:
        if history:
            raise InputError("--history: expected it without --update; got both")
        write_expectation(file, loaded.name, find_figures(loaded, doing))
        typer.echo(f"written: {file}")
        return
    if history:
        present_commit(Path.cwd())
    report = check_exact(loaded, file, doing)
    typer.echo("\n".join(exact_lines(report, f"cnnbench gate {suite} --exact")))
    if history:
        keep(history, entries_of_exact(report.found, Path.cwd()))
    if report.differences:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)


def _show(gate_report: "GateReport", command: list[str]) -> None:
    """Print table and facts, write the summary, and print annotations in a GitHub job."""
    from cnnbench.gate.run import SUMMARY
    from cnnbench.report import verdicts
    from cnnbench.report.terminal import print_tables

    names = [(case.comparison.name, case.comparison.base.id) for case in gate_report.result.cases]
    again = {name: shlex.join([*command, "--only", id_]) for name, id_ in names}
    table = verdicts.table_of_verdicts(gate_report)
    print_tables(console(), [table])
    for line in verdicts.facts(gate_report.result):
        typer.echo(line)
    for name, explanation in gate_report.explanations.items():
        typer.echo("\n".join(verdicts.explained(name, explanation, again[name])))
    typer.echo(f"{verdicts.conclusion(gate_report)}; {gate_report.folder / SUMMARY}")
    _write_summary(gate_report.folder / SUMMARY, verdicts.summary(gate_report, table, again))
    if os.environ.get("GITHUB_ACTIONS"):
        typer.echo("\n".join(verdicts.annotations(gate_report)))


def _write_summary(file: Path, text: str) -> None:
    """Into the gate's folder, and appended to the summary of a GitHub job, if this is one."""
    from cnnbench.records import files

    _attempt(partial(files.write, file, text))
    if step_summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _attempt(partial(files.append, Path(step_summary), text))


def _attempt(write: Callable[[], None]) -> None:
    """Write a file of a gate that is over: one that cannot be written is a warning, and the verdict stands."""
    try:
        write()
    except OSError as error:
        typer.echo(f"warning: {error.filename}: not written: {error.strerror}", err=True)
