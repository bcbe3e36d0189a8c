"""Every witness of a model's counts, side by side."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cnnbench import counts, machine
from cnnbench.case import Frozen, ModelSpec
from cnnbench.messages import Count
from cnnbench.process import Worker
from cnnbench.record import Witnesses

LIMIT_S = 300.0


class Verdict(Frozen):
    """What the witnesses say of one model."""

    model: str
    image_size: tuple[int, ...] | None
    params: dict[str, int]
    """By witness."""
    macs: dict[str, int]
    """By witness, for one image."""
    published_params: int | None
    published_giga_macs: float | None
    silent: dict[str, str]
    disagreements: list[str]
    explained: list[str]
    """Differences whose reason is known."""

    @property
    def agree(self) -> bool:
        """Whether every witness was heard and none disagrees with another."""
        return not self.disagreements and not self.silent


def verify(specs: Sequence[ModelSpec]) -> Iterator[Verdict]:
    """One verdict per model, as it is found, from one child process. Raises ModelError, WorkerError."""
    with (
        TemporaryDirectory(prefix="cnnbench-") as logs,
        Worker(Path(logs) / "verify.log", machine.usable_threads(), LIMIT_S) as worker,
    ):
        for spec in specs:
            yield judge(spec, worker.ask(Count(spec=spec), Witnesses))


def judge(spec: ModelSpec, witnesses: Witnesses) -> Verdict:
    """Totals by witness, and every difference."""
    found = counts.find(spec, witnesses)
    everyone = {"closed form": witnesses.closed_form} if witnesses.closed_form is not None else {}
    everyone |= witnesses.counted
    published = witnesses.published
    return Verdict(
        model=spec.label,
        image_size=spec.image_size,
        params={
            name: counts.total(found, counts.PARAMS)
            for name, found in everyone.items()
            if counts.PARAMS in counts.SPEAKS_OF.get(name, (counts.PARAMS,))
        },
        macs={
            name: counts.total(found, counts.MACS)
            for name, found in everyone.items()
            if counts.MACS in counts.SPEAKS_OF.get(name, (counts.MACS,))
        },
        published_params=published.params if published else None,
        published_giga_macs=published.giga_macs if published else None,
        silent=witnesses.silent,
        disagreements=found.disagreements,
        explained=found.explained,
    )
