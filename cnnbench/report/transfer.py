"""Training a part of a model beside training all of it: predicted and measured, and where the difference is."""

from collections.abc import Iterator, Sequence

from cnnbench.analysis.kernel import is_much, kernel_share
from cnnbench.analysis.times import peak_mib
from cnnbench.analysis.transfer import BACKWARD, FORWARD, OPTIMIZER, Saving
from cnnbench.networks.trainable import NORM_TRAINS, norm_trains
from cnnbench.networks.units import MB
from cnnbench.report.format import percent, ratio_text, significant
from cnnbench.report.table import Column, Table, estimate, figure, measure, table_of, words
from cnnbench.suite.case import STEP

MIN_SHARE = 0.01
"""Of the whole step's time: a smaller difference between a phase's shares is left out."""
PHASES = {FORWARD: "the forward pass", BACKWARD: "the backward pass", OPTIMIZER: "the optimizer", STEP[0]: "the step"}


def transfer_table(savings: Sequence[Saving]) -> Table:
    """One row for each case that trains a part, with a note that says where prediction and measurement differ."""
    columns: list[Column[Saving]] = [
        words("model", lambda r: r.record.case.spec.label, axis=True),
        words("trained", lambda r: r.record.case.trainable.removesuffix(NORM_TRAINS), axis=True),
        words("frozen norm", lambda r: "train" if norm_trains(r.record.case.trainable) else "eval"),
        figure("batch", lambda r: r.record.case.batch, str, axis=True),
        words("backend", lambda r: r.record.case.backend, axis=True),
        measure("by MACs", lambda r: r.by_macs, "×{:.2f}".format, "by_macs"),
        measure("by lower bounds", lambda r: r.by_bounds, "×{:.2f}".format, "by_bounds"),
        *estimate("measured", lambda r: r.measured, ratio_text, "measured"),
        measure("saved MB", lambda r: r.memory.saved / MB if r.memory else None),
        measure("tensors MB", lambda r: r.memory.peak / MB if r.memory else None),
        figure("peak MiB", lambda r: peak_mib(r.record), "{:,.0f}".format),
        figure("peak MiB of all", lambda r: peak_mib(r.whole), "{:,.0f}".format),
    ]
    caption = (
        "Speed of a training step that trains a part of the model, as a multiple of that of the step that trains all "
        "of it in the same backend. by MACs: the closed form's ratio of multiply-accumulates. by lower bounds: that of "
        "the steps' lower bounds, which also count memory traffic and launches. measured: in shared rounds [95 % "
        "interval]. saved and tensors: by the closed form, what the step keeps for its backward pass, and the most "
        "alive at any moment, with PyTorch's momentum. peak: resident memory of the process, of this step and of the "
        "step that trains all."
    )
    notes = [f"{_name(saving)}: {sentence(saving)}" for saving in savings]
    return table_of("transfer", "Training a part against all", caption, savings, columns, notes=notes)


def _name(saving: Saving) -> str:
    case = saving.record.case
    return f"{case.label}, {case.backend}, batch {case.batch}"


def sentence(saving: Saving) -> str:
    """What was predicted and measured, and which phases make the difference."""
    measured = ratio_text(saving.measured)
    if saving.by_macs is None:
        return f"measured {measured}; nothing is predicted without a closed form."
    predicted = f"predicted ×{saving.by_macs:.2f} by MACs, measured {measured}"
    if saving.is_as_predicted:
        return f"{predicted}: as predicted, within the interval."
    return f"{predicted}: {'; '.join(_differences(saving))}."


def _differences(saving: Saving) -> Iterator[str]:
    shares = sorted(saving.shares.items(), key=lambda item: -abs(item[1].time - item[1].macs))
    for number, (phase, share) in enumerate(shares):
        if number and abs(share.time - share.macs) < MIN_SHARE:
            continue
        if share.macs:
            has = f"{PHASES[phase]} has {percent(share.macs)} of the whole step's MACs"
            yield f"{has} and takes {percent(share.time)} of its time"
        else:
            yield f"{PHASES[phase]} takes {percent(share.time)} of the whole step's time"
    if saving.by_bounds is not None:
        yield f"memory traffic and launches, which MACs leave out, predict ×{significant(saving.by_bounds)}"
    whole, ours = kernel_share(saving.whole.launches), kernel_share(saving.record.launches)
    if whole is not None and ours is not None and (is_much(whole) or is_much(ours)):
        yield f"{percent(whole)} of the whole step's CPU time is the system's kernel's, {percent(ours)} of this one's"
