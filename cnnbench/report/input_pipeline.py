"""How fast stored images become batches: by stage, by number of workers, and beside the run's training steps."""

from collections.abc import Iterator

from cnnbench.analysis.input_pipeline import Binding, bindings, rate, stage_time
from cnnbench.analysis.stats import Estimate
from cnnbench.records.input_times import InputTimes, Stage, Supply
from cnnbench.records.run_folder import Run
from cnnbench.report.format import interval_text, percent, significant
from cnnbench.report.table import Column, Table, estimate, figure, table_of, words

MICRO = 1e6


def input_tables(run: Run) -> list[Table]:
    """Stages, then workers with a sentence for each training case; none where the suite does not ask for it."""
    return [] if run.input is None else [_stages(run.input), _workers(run, run.input)]


def _stages(times: InputTimes) -> Table:
    total = sum(stage_time(stage).value for stage in times.stages)
    columns: list[Column[Stage]] = [
        words("stage", lambda r: r.name, axis=True),
        *estimate("µs per image", lambda r: stage_time(r).scaled(MICRO), interval_text, "us_per_image"),
        figure("share", lambda r: stage_time(r).value / total, percent),
    ]
    caption = (
        f"One image of {times.plan.data} on its way into a batch of {times.plan.batch} of {_sizes(times)}, in the "
        "process that trains, stage by stage: median of blocks [95 % interval]. decode: from the file, or from memory "
        "where a data set is held there. batch: put together, and bytes turned into float32. copy: to the device; on "
        "a CPU from memory to memory."
    )
    return table_of("input", "Input by stage", caption, times.stages, columns)


def _workers(run: Run, times: InputTimes) -> Table:
    columns: list[Column[Supply]] = [
        figure("workers", lambda r: r.workers, str, axis=True),
        *estimate("images/s", rate, interval_text, "images_per_s"),
    ]
    caption = (
        "Images per second of the whole way by torch's DataLoader, with so many processes beside the one that takes "
        "the batches; 0: in that one. Nothing is trained meanwhile: on a CPU a step and its input share the cores, and "
        "both together take about the sum of their times."
    )
    return table_of(
        "input_workers", "Input by workers", caption, times.supplies, columns, notes=list(sentences(run, times))
    )


def sentences(run: Run, times: InputTimes) -> Iterator[str]:
    """For each training case whether the model binds or its input; where sizes differ, that they do."""
    yield from (f"{_name(each)}: {sentence(each)}" for each in bindings(run))
    others = {
        f"{record.case.spec.label} takes {'x'.join(map(str, record.artifact.input_shape))}"
        for record in run.records.values()
        if record.case.workload == "training" and record.artifact and record.artifact.input_shape != times.shape
    }
    if others and times.shape:
        yield f"Behind the transforms images are {_sizes(times)}; {', '.join(sorted(others))}, and is not compared."


def sentence(each: Binding) -> str:
    """Which of the two binds, by how much, and what would be enough."""
    takes, gives = (significant(one.value) for one in (each.takes, each.gives))
    if each.binds == "model":
        return f"the model binds: it takes {takes} images/s of {gives} ({_workers_text(each.workers)})."
    if each.binds == "input":
        return (
            f"the input binds: {_workers_text(each.workers)} give {gives} images/s, and the model takes {takes}; "
            f"{each.needed} are needed, if each gives as much as one does."
        )
    return (
        f"the model and its input are as fast as each other within their intervals: {takes} {_range(each.takes)} and "
        f"{gives} {_range(each.gives)} images/s ({_workers_text(each.workers)})."
    )


def _range(of: Estimate) -> str:
    return f"[{'?' if of.low is None else significant(of.low)}, {'?' if of.high is None else significant(of.high)}]"


def _workers_text(count: int) -> str:
    return "without workers" if count == 0 else "1 worker" if count == 1 else f"{count} workers"


def _name(each: Binding) -> str:
    case = each.record.case
    return f"{case.label}, {case.backend}, batch {case.batch}"


def _sizes(times: InputTimes) -> str:
    return "x".join(map(str, times.shape))
