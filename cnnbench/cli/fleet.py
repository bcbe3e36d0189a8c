"""`cnnbench run --fleet`: a suite on every node of a cluster."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cnnbench.cli.common import EXIT_INTERRUPTED, EXIT_NOT_ALL_MEASURED, console, select_cases
from cnnbench.suite.parse import checked, parse_duration

if TYPE_CHECKING:
    from cnnbench.fleet.artifacts import Build


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    suite: str
    address: str
    out: Path | None
    only: list[str]
    budget: str | None
    nodes: list[str]
    labels: list[str]
    plan: bool
    mixed: bool
    build: "Build | None" = None

    @property
    def options(self) -> list[str]:
        """Those that each machine's command has."""
        only = [word for each in self.only for word in ("--only", each)]
        return [*only, "--budget", self.budget] if self.budget else only

    def command(self, folder: Path) -> str:
        """What continues it."""
        chosen = [word for each in self.nodes for word in ("--nodes", each)]
        chosen += [word for each in self.labels for word in ("--label", each)]
        words = ["cnnbench", "run", self.suite, "--fleet", self.address, "--out", str(folder), *self.options, *chosen]
        words += ["--mixed"] if self.mixed else []
        return shlex.join([*words, *(["--build", self.build] if self.build else [])])


def run_on_fleet(asked: Asked) -> None:
    """Measure, or plan it; ends with 3 if any machine lacks a case, never with 1."""
    from cnnbench.fleet.driver import Folder, nodes_of, run_fleet
    from cnnbench.fleet.own_models import own_models
    from cnnbench.fleet.ray_cluster import LOCAL, RayCluster
    from cnnbench.records.run_folder import new_folder
    from cnnbench.report.fleet import FleetProgress, outcomes, planned
    from cnnbench.runner import plan
    from cnnbench.runner.budget import Budget

    suite, cases = select_cases(asked.suite, asked.only)
    seconds = checked(parse_duration, asked.budget, "--budget") if asked.budget else suite.budget_s
    labels = checked(_labels, asked.labels, "--label")
    if asked.plan:
        budget = Budget(seconds, suite.case_budgets_s, suite.launches)
        budget.first = plan.group_cases(cases)
        budget.builds = list(plan.models_of(budget.first))
        with RayCluster(asked.address) as cluster:
            nodes = nodes_of(cluster, asked.nodes, labels)
        typer.echo("\n".join(planned(nodes, len(cases), budget.remaining_s())))
        return
    own = own_models(suite, cases) if asked.address != LOCAL else None
    where = asked.out or new_folder(suite, "fleet-")
    with Folder(where, suite) as folder:
        with RayCluster(asked.address) as cluster, FleetProgress(console()) as progress:
            ending = run_fleet(
                cluster,
                folder,
                cases,
                asked.options,
                progress,
                names=asked.nodes,
                labels=labels,
                build="on-node" if asked.address == LOCAL else asked.build or "cheapest",
                own=own,
            )
        typer.echo("\n".join(outcomes(ending.rows)))
        if ending.unwritten:
            typer.echo(f"error: {ending.unwritten}; finished records are lost: make room", err=True)
        found = {row.machine.folder: len(row.statuses) for row in ending.rows if row.statuses and row.machine.folder}
        _compare(where, found, asked.mixed)
    missing = [row for row in ending.rows if not row.is_complete]
    if missing or ending.unwritten:
        left = "; ".join(f"{row.machine.name}: {len(row.left)} of {len(cases)} cases left" for row in missing)
        typer.echo(f"{left or 'records are lost'}; continue with: {asked.command(where)}", err=True)
    if ending.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if missing or ending.unwritten:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)


def _labels(given: list[str]) -> dict[str, str]:
    """{"gpu": "h100"} from `gpu=h100`. Raises ValueError."""
    pairs = [text.partition("=") for text in given]
    if not all(key and mark for key, mark, _ in pairs):
        raise ValueError(f"expected KEY=VALUE; got {given}")
    return {key: value for key, _, value in pairs}


def _compare(where: Path, folders: Mapping[Path, int], mixed: bool) -> None:
    """Write each run's report and their comparison: of those with the same libraries, unless `mixed`.

    `folders` have numbers of records. Of many machines the reports are left to `cnnbench report`: each takes seconds.
    """
    from cnnbench import api
    from cnnbench.analysis.hardware import MAX_MACHINES
    from cnnbench.errors import RunFolderError
    from cnnbench.fleet.driver import COMPARED
    from cnnbench.records.environment import Environment
    from cnnbench.records.json_object import read_model
    from cnnbench.records.run_folder import ENVIRONMENT
    from cnnbench.report.fleet import by_stack
    from cnnbench.report.terminal import print_tables

    software: dict[Path, Mapping[str, str | None]] = {}
    for folder, number in folders.items():
        report = (
            f"report in {api.load(folder).write()}" if len(folders) <= MAX_MACHINES else f"cnnbench report {folder}"
        )
        typer.echo(f"{folder.name}: {number} records; {report}")
        about = None
        with suppress(RunFolderError):  # the comparison names what cannot be read
            about = read_model(folder / ENVIRONMENT, Environment)
        software[folder] = about.software if about else {}
    stacks = by_stack(software)
    if len(stacks) > 1:
        for versions, runs in stacks.items():
            typer.echo(f"{versions}: {', '.join(run.name for run in runs)}")
        if not mixed:
            typer.echo("these differ, so those of the first line alone are compared; --mixed compares all")
    compared = [run for runs in (stacks.values() if mixed else [*stacks.values()][:1]) for run in runs]
    try:
        comparison = api.compare(*compared)
    except RunFolderError:
        typer.echo("nothing was measured that could be compared", err=True)
        return
    print_tables(console(), [table for table in comparison.tables.values() if table.is_shown])
    typer.echo(f"comparison in {comparison.write(where / COMPARED)}")
