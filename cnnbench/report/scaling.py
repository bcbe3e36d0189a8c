"""Training on several ranks: how much slower a step is than on one, and why."""

from collections.abc import Sequence

from cnnbench.analysis.scaling import Scaling, rate_of
from cnnbench.networks.units import MB
from cnnbench.report.format import interval_text, percent, significant
from cnnbench.report.table import Column, Table, estimate, figure, measure, table_of, words

GB = 1e9


def scaling_table(found: Sequence[Scaling]) -> Table:
    """One row for each case on several ranks, with a note that says where its time goes."""
    columns: list[Column[Scaling]] = [
        words("model", lambda r: r.record.case.spec.label + r.record.case.part, axis=True),
        figure("batch", lambda r: r.record.case.batch, str, axis=True),
        words("backend", lambda r: r.record.case.backend, axis=True),
        figure("ranks", lambda r: r.record.case.ranks, str, axis=True),
        *estimate("efficiency", lambda r: r.efficiency, interval_text, "efficiency"),
        figure("step ms", lambda r: r.step_s * 1e3, key="step_ms"),
        measure("exposed ms", lambda r: None if r.exposed_s is None else r.exposed_s * 1e3, key="exposed_ms"),
        measure("gradients MB", lambda r: r.gradient_bytes / MB if r.gradient_bytes else None, key="gradients_mb"),
        measure("traffic MB", lambda r: r.traffic_bytes / MB if r.traffic_bytes else None, key="traffic_mb"),
        measure("least ms", lambda r: None if r.lower_bound_s is None else r.lower_bound_s * 1e3, key="least_ms"),
        measure("best GB/s", lambda r: r.bytes_per_s / GB if r.bytes_per_s else None, key="best_gb_per_s"),
    ]
    caption = (
        "Steps of DistributedDataParallel, each rank with the batch and the threads of the case on one rank, timed "
        "between barriers; the slowest rank counts. efficiency: a step's time on one rank over that on all, in shared "
        "rounds [95 % interval]. exposed: what the step is longer than the same without its all-reduce. traffic: what "
        "each rank sends, 2 (N - 1) / N x 4 bytes x trained parameters. best: the most that each rank sent in a second "
        "in all-reduces of 1, 25 and 100 MB; least: the traffic at that rate."
    )
    notes = [f"{each.record.case.label}, {each.record.case.backend}: {sentence(each)}" for each in found]
    return table_of("scaling", "Training on several ranks", caption, found, columns, notes=notes)


def sentence(scaling: Scaling) -> str:
    """Why a step on several ranks takes longer than on one."""
    ranks, longer_s, exposed_s = scaling.record.case.ranks, scaling.longer_s, scaling.exposed_s
    faster = f"{ranks} ranks train {significant(ranks * scaling.efficiency.value)} times as many images a second as one"
    if exposed_s is None or scaling.ranks is None:
        return f"{faster}."
    if longer_s <= 0:
        return f"{faster}: a step takes no longer than on one rank."
    exposed_s = max(exposed_s, 0.0)
    rest_s = max(longer_s - exposed_s, 0.0)
    parts = [f"{_ms(exposed_s)} of that is exposed communication"]
    if scaling.traffic_bytes is not None and scaling.lower_bound_s is not None:
        rates = ", ".join(
            f"{significant(rate_of(ranks, each) / GB)} GB/s at {each.bytes / MB:g} MB"
            for each in scaling.ranks.all_reduces
        )
        least = _ms(scaling.lower_bound_s)
        parts[0] += f" (its {significant(scaling.traffic_bytes / MB)} MB take {least} at least; measured {rates})"
    parts.append(f"{_ms(rest_s)} is slower computing, for ranks share memory, caches and clock frequency")
    longer = f"a step takes {_ms(longer_s)} ({percent(longer_s / scaling.step_s)}) longer"
    return f"{faster}: {longer}; {'; '.join(parts)}."


def _ms(seconds: float) -> str:
    return f"{significant(seconds * 1e3)} ms"
