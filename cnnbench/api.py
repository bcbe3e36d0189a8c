"""The Python interface: load a run, make one, compare several, count a network; as the commands of those names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.analysis.compare import Comparison, compare_runs
from cnnbench.analysis.hardware import MAX_MACHINES, ByHardware, by_hardware
from cnnbench.analysis.status import rechecked
from cnnbench.errors import InputError
from cnnbench.networks import registry
from cnnbench.networks.network import Network
from cnnbench.records.run_folder import Run, new_folder, read_run
from cnnbench.suite.case import ModelSpec
from cnnbench.suite.parse import checked, parse_duration, parse_image_size, parse_inputs

if TYPE_CHECKING:
    import pandas as pd

    from cnnbench.analysis.answer import Answer
    from cnnbench.report.charts import Chart
    from cnnbench.report.html import Page
    from cnnbench.report.table import Table


@dataclass(frozen=True)
class Results:
    """A run with its numbers, tables and charts. A notebook displays the tables."""

    run: Run

    @cached_property
    def frame(self) -> "pd.DataFrame":
        """One row per case, measured or not: settings, status, times in milliseconds with intervals, ratios, memory."""
        from cnnbench.analysis.cases import case_frame, case_rows

        return case_frame(case_rows(list(self.run.records.values())))

    @cached_property
    def answer(self) -> "Answer":
        """The fastest runtime, the best networks, what limits them, and how well the times are known."""
        from cnnbench.analysis.answer import answer

        return answer(self.run)

    @cached_property
    def tables(self) -> "dict[str, Table]":
        """By name: formatted text in `cells`, numbers in `data`."""
        from cnnbench.report.bounds import bound_tables
        from cnnbench.report.tables import run_tables

        return {table.name: table for table in [*run_tables(self.run), *bound_tables(self.run)]}

    @property
    def charts(self) -> "dict[str, Chart]":
        """By name: a notebook displays a chart; `spec` is the Altair chart, `svg` and `png` are rendered."""
        return {chart.name: chart for chart in self.page.charts}

    @cached_property
    def page(self) -> "Page":
        """The content of `report.html`, section by section."""
        from cnnbench.report.sections import run_page

        return run_page(self.run, list(self.tables.values()))

    def write(self) -> Path:
        """Write page, Markdown, tables and charts into the run's folder; returns the page's path. Raises OSError."""
        from cnnbench.report.files import write_report

        return write_report(self.run, list(self.tables.values()), self.page)

    def _repr_html_(self) -> str:
        return _tables_html(self)


@dataclass(frozen=True)
class Compared:
    """Several runs side by side, with tables and charts. A notebook displays the tables."""

    comparison: Comparison

    @cached_property
    def by_hardware(self) -> ByHardware | None:
        """Kinds of hardware, which tables and page show in the place of more than twenty machines."""
        return by_hardware(self.comparison) if len(self.comparison.machines) > MAX_MACHINES else None

    @cached_property
    def tables(self) -> "dict[str, Table]":
        """By name: formatted text in `cells`, numbers in `data`."""
        from cnnbench.report.comparing import comparison_tables

        return {table.name: table for table in comparison_tables(self.comparison, self.by_hardware)}

    @property
    def frame(self) -> "pd.DataFrame":
        """One row per case and machine: its time with its interval, its ratio to the reference's, throughput, rank."""
        return self.tables["every-machine" if self.by_hardware else "cases"].data

    @property
    def charts(self) -> "dict[str, Chart]":
        """By name: a notebook displays a chart; `spec` is the Altair chart, `svg` and `png` are rendered."""
        return {chart.name: chart for chart in self.page.charts}

    @cached_property
    def page(self) -> "Page":
        """The content of the comparison's `report.html`, section by section."""
        from cnnbench.report.sections.compared import comparison_page

        return comparison_page(self.comparison, list(self.tables.values()), self.by_hardware)

    def write(self, folder: str | Path) -> Path:
        """Write page, Markdown, tables and charts into a folder; returns the page's path. Raises OSError."""
        from cnnbench.report.files import write_comparison

        return write_comparison(Path(folder), list(self.tables.values()), self.page)

    def _repr_html_(self) -> str:
        return _tables_html(self)


def _tables_html(results: "Results | Compared") -> str:
    from cnnbench.report.html import summary_html

    return summary_html(results.page, [table for table in results.tables.values() if table.is_shown])


def load(folder: str | Path) -> Results:
    """Load the run in a folder. Raises RunFolderError if there is none, or no record can be read."""
    return Results(rechecked(read_run(Path(folder).expanduser().resolve())))


def run(
    suite: str | Path,
    *,
    out: str | Path | None = None,
    only: Sequence[str] = (),
    budget: str | float | None = None,
    resume: bool = False,
) -> Results:
    """Measure a suite: a YAML file, or the name of a bundled one. Progress is printed.

    `out` is the run's folder, runs/<suite>-<time> if not given; `only` are shell patterns of case ids; `budget` is the
    time for the whole run, in seconds or such as `10m`; `resume` continues the run in `out`. Cases not reached in time
    have no record. Raises InputError, ModelError, RunFolderError; KeyboardInterrupt, with finished cases on disk.
    """
    from rich.console import Console

    from cnnbench.report.live import title_of
    from cnnbench.report.terminal import Progress
    from cnnbench.runner.run import run as measure
    from cnnbench.suite.load import load_suite, select

    if resume and out is None:
        raise InputError("resume: expected `out`, the folder of the run to continue; got none")
    loaded = load_suite(str(suite))
    cases = checked(partial(select, loaded.cases), only, "only")
    budget_s = loaded.budget_s if budget is None else checked(parse_duration, budget, "budget")
    folder = Path(out) if out is not None else new_folder(loaded)
    watch = partial(Progress, Console(width=160), title=title_of(loaded.name, cases, budget_s))
    measure(loaded, cases, folder, budget_s=budget_s, resume=resume, watch=watch).check()
    return load(folder)


def count(
    model: str,
    *,
    image_size: str | int | None = None,
    classes: int | None = None,
    channels: int | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    what_if: Mapping[str, object] | None = None,
) -> Network:
    """Count a network layer by layer, for one image: `count("resnet18").macs`. 1 MAC = 2 FLOP.

    `model` is a name of `cnnbench list models`, in closed form, or any other that a suite could name, such as
    `mypackage.nets:build`, which is traced in a child process. `image_size` is `224` or `"480x640"`, the model's
    default if not given; `channels`, or `inputs` such as {"left": (3, 224, 224)}, are for a model of the user's own
    whose inputs cannot be read from it; `what_if` are settings of its family, such as {"width": 0.75}. Raises
    InputError, ModelError.
    """
    checked(registry.check_name, model, "model")
    size = None if image_size is None else checked(parse_image_size, image_size, "image_size")
    if registry.find(model) is None and not what_if:
        from cnnbench.runner.tasks.trace import read

        shapes = None if inputs is None else checked(parse_inputs, dict(inputs), "inputs")
        return read(ModelSpec.checked(model, size, classes, channels=channels, inputs=shapes)).network
    architecture = registry.get(model)
    if what_if:
        architecture = checked(architecture.varied, {name: str(value) for name, value in what_if.items()}, "what_if")
    return architecture.network(size, classes)


def compare(*runs: str | Path, reference: int | str = 1, prices: str | Path | None = None) -> Compared:
    """Compare runs from any machines on the cases that they share: a description, not a verdict.

    `reference` is the machine that ratios are taken to, by its number, from 1, or its name; `prices` is a YAML file
    with prices and power per machine. Raises RunFolderError, InputError.
    """
    read = (load(folder).run for folder in runs)
    return Compared(compare_runs(read, str(reference), None if prices is None else Path(prices)))
