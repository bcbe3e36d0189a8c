"""What a person sees of a fleet: a line per machine while it measures, and what became of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table as RichTable

from cnnbench.fleet.driver import Machine, Row
from cnnbench.fleet.transport import Node
from cnnbench.records.record import STATUSES, Record
from cnnbench.report.format import format_seconds
from cnnbench.report.plain import lines_of
from cnnbench.report.reasons import reason_text
from cnnbench.report.terminal import STYLES, can_redraw, line_of

STACK = ("torch", "onnxruntime-gpu", "onnxruntime")
"""The libraries whose versions tell machines apart."""
MAX_REASONS = 2
"""That a machine's row has of its cases."""


class FleetProgress:
    """A line per machine with its case and the time left, redrawn on a terminal; elsewhere a line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if can_redraw(console) else None
        self._machines: dict[str, Machine] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def changed(self, machine: Machine) -> None:
        """Its state, or what it does, is another."""
        self._machines[machine.name] = machine
        if self._live is None:
            self._print(f"{machine.name}: {_now(machine)}")
            return
        grid = RichTable.grid(padding=(0, 2))
        for each in self._machines.values():
            grid.add_row(escape(each.name), escape(_now(each)))
        self._live.update(grid, refresh=True)

    def done(self, machine: Machine, record: Record) -> None:
        """A record is on disk."""
        if record.status != "unavailable" and self._live is not None:  # else the machine's own line says it
            self._print(f"{machine.name}: {line_of(record)}", STYLES[record.status])

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(escape(text), style=style, soft_wrap=True, highlight=False)


def _now(machine: Machine) -> str:
    if machine.state == "measuring" and machine.doing:
        return machine.doing
    what = {"waiting": "waiting for the node", "ended": "ended"}.get(machine.state, machine.state)
    if machine.state == "lost":
        what = "lost, given up" if machine.is_given_up else "lost"
    return f"{what}: {machine.reason}" if machine.reason else what


def outcomes(rows: Sequence[Row]) -> list[str]:
    """What became of each machine: how many cases have which status, how many are left, and why."""

    def cells(row: Row) -> dict[str, object]:
        machine, counts = row.machine, Counter(row.statuses.values())
        state = machine.state if machine.state != "ended" else "complete" if row.is_complete else "incomplete"
        found = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status]) or "none"
        shown = [reason_text(reason) for reason in row.reasons[:MAX_REASONS]]
        more = [f"and {len(row.reasons) - MAX_REASONS} more"] if row.reasons[MAX_REASONS:] else []
        why = "; ".join([*filter(None, [machine.reason]), *machine.notes, *shown, *more])
        return {"machine": machine.name, "run": state, "cases": found, "left": len(row.left), "reason": why}

    return lines_of([cells(row) for row in rows], "")


def planned(nodes: Sequence[Node], cases: int, seconds: float) -> list[str]:
    """Machines, cases and time before anything is measured."""

    def cells(node: Node) -> dict[str, object]:
        about = {"machine": node.name, "address": node.address, "CPUs": f"{node.cpus:g}", "GPUs": f"{node.gpus:g}"}
        return {**about, "cases": cases, "time": f"about {format_seconds(seconds)}"}

    return lines_of([cells(node) for node in nodes], "")


def by_stack(software: Mapping[Path, Mapping[str, str | None]]) -> dict[str, list[Path]]:
    """Runs' folders by the versions of the libraries that measure; the most frequent first."""
    found: dict[str, list[Path]] = {}
    for folder, versions in software.items():
        known = [f"{name} {version}" for name in STACK if (version := versions.get(name))]
        found.setdefault(", ".join(known) or "unknown versions", []).append(folder)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))
