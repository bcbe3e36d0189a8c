"""What a run has to do, told from its cases alone: groups, what is finished, what is built and in which order."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby

from cnnbench.networks import registry
from cnnbench.records import artifact
from cnnbench.records.environment import Environment, differences
from cnnbench.records.record import Record
from cnnbench.suite.case import Case, ModelSpec

Group = tuple[Case, ...]
"""Cases that are measured interleaved."""

BUILD_OVERHEAD_LAYERS = 20
"""What building an artifact or a training step takes beside its layers, in layers."""
UNKNOWN_LAYERS = 100
"""Of a model without a closed form."""


def unfinished(cases: Iterable[Case], finished: Mapping[str, Record], here: Environment) -> list[Case]:
    """The cases without a finished record, or with one that was measured elsewhere or depends on what has changed."""

    def is_valid(record: Record) -> bool:
        is_from_here = record.environment is None or not differences(record.environment, here)
        return is_from_here and record.depends in ("", artifact.depends_on(record.case))

    return [case for case in cases if case.id not in finished or not is_valid(finished[case.id])]


def group_cases(cases: Sequence[Case]) -> list[Group]:
    """Cases that a table sets side by side, together; in the suite's order."""
    order = {case.id: index for index, case in enumerate(cases)}
    first: dict[tuple[object, ...], int] = {}
    for case in cases:
        first.setdefault(case.group_key, order[case.id])
    ordered = sorted(cases, key=lambda case: (first[case.group_key], order[case.id]))
    return [tuple(group) for _, group in groupby(ordered, key=lambda case: case.group_key)]


def title(group: Group) -> str:
    """A group in one line: `lenet5/inference/eager+ort/cpu/fp32/b8`."""
    case = group[0]
    runtimes = "+".join(dict.fromkeys(each.runtime for each in group))
    precisions = "+".join(dict.fromkeys(each.precision for each in group))
    return f"{case.spec.label}/{case.workload}/{runtimes}/{case.device}/{precisions}/b{case.batch}"


def models_of(groups: Iterable[Sequence[Case]]) -> dict[ModelSpec, tuple[str, ...]]:
    """The models that groups run, in order, with the parts of each whose training step is wanted too."""
    found: dict[ModelSpec, dict[str, None]] = {}
    for case in (case for group in groups for case in group):
        found.setdefault(case.spec, {}).update(dict.fromkeys(steps_of(case)))
    return {spec: tuple(parts) for spec, parts in found.items()}


def steps_of(case: Case) -> tuple[str, ...]:
    """The part of its model whose exported training step the case runs, if it does."""
    return (case.trainable,) if case.is_exported_step else ()


def compiled_ahead(groups: Iterable[Sequence[Case]], spec: ModelSpec) -> tuple[Case, ...]:
    """The cases of a model that run a package or a graph of their own, once for each that is to be made."""
    cases = (case for group in groups for case in group if case.spec == spec)
    return tuple({name: case for case in cases if (name := artifact.made_for(case, case.threads or 0))}.values())


def build_order(specs: Iterable[ModelSpec]) -> list[ModelSpec]:
    """Models outside the registry first, for they may be wrong; then the largest first, so that cores end together."""
    return sorted(specs, key=lambda spec: (registry.find(spec.model) is not None, -layers_to_build(spec)))


@cache
def layers_to_build(spec: ModelSpec) -> int:
    """What building an artifact or a training step takes, in layers."""
    network = spec.closed_form
    return BUILD_OVERHEAD_LAYERS + (UNKNOWN_LAYERS if network is None else len(network.layers))
