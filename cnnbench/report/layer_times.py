"""The time of each layer in each runtime, beside its work: a table, the slowest, and what is not in it."""

from collections.abc import Iterable, Iterator
from typing import Any

from cnnbench.networks.layers import spelled
from cnnbench.networks.units import MB
from cnnbench.records.layer_profile import MIN_SHARE, ModelProfile, Row
from cnnbench.report.format import significant
from cnnbench.report.plain import lines_of
from cnnbench.runner.tasks.layer_profile import NOTE

GIGA = 1e9
EMPTY = (
    "An empty cell: the runtime ran no operator for that layer. Its work is part of another's, as batch normalisation, "
    "activations and sums are of a convolution, or there is none."
)


def as_json(profile: ModelProfile) -> dict[str, Any]:
    """All of it for programs: seconds of one call, work of the whole batch; null where there is nothing to tell."""
    return {
        "model": profile.model,
        "input_shape": [profile.batch, *profile.input_shape],
        "calls": profile.calls,
        "threads": profile.threads,
        "note": NOTE,
        "runtimes": {
            runtime: {
                "call_s": times.call_s,
                "call_quartiles_s": list(times.quartiles_s),
                "layers_s": times.layers_s,
                "other_s": times.other,
                "outside_s": times.outside_s,
                "slowest": [row.name for row in profile.slowest(runtime)],
                "slow_for_work": [row.name for row in profile.slow_for_work(runtime)],
            }
            for runtime, times in profile.times.items()
        },
        "failures": profile.failures,
        "left_out": list(profile.left_out),
        "layers": [
            {
                "name": row.name,
                "kind": row.kind,
                "macs": row.macs,
                "moved_bytes": row.moved_bytes,
                "seconds": {runtime: row.seconds.get(runtime) for runtime in profile.times},
                "share": {runtime: profile.share(row, runtime) for runtime in profile.times},
                "macs_per_s": {runtime: row.macs_per_s(runtime) for runtime in profile.times},
            }
            for row in profile.rows
        ],
    }


def text(profile: ModelProfile) -> Iterator[str]:
    """The same for people, line by line."""
    shape = spelled((profile.batch, *profile.input_shape))
    yield f"{profile.model}, input {shape}, {profile.calls} calls, {profile.threads} CPU threads"
    yield NOTE
    yield ""
    yield from lines_of([_cells(profile, row) for row in profile.rows])
    yield EMPTY
    for runtime in profile.times:
        yield ""
        yield from _runtime(profile, runtime)
    if profile.left_out:
        yield ""
        yield "not in the MACs and bytes"
        yield from (f"  - {line}" for line in profile.left_out)
    for runtime, reason in profile.failures.items():
        yield ""
        yield f"{runtime}: not profiled: {reason}"


def _cells(profile: ModelProfile, row: Row) -> dict[str, str]:
    cells = {
        "layer": _name(profile, row),
        "kind": row.kind,
        "MACs": f"{row.macs:,}" if row.macs else "",
        "MB moved": significant(row.moved_bytes / MB) if row.moved_bytes else "",
    }
    for runtime in (*profile.times, *profile.failures):
        known = runtime in row.seconds
        rate = row.macs_per_s(runtime)
        cells[f"{runtime} ms"] = _ms(row.seconds[runtime]) if known else ""
        cells[f"{runtime} %"] = f"{100 * (profile.share(row, runtime) or 0.0):.1f}" if known else ""
        cells[f"{runtime} GMAC/s"] = significant(rate / GIGA) if rate else ""
    return cells


def _name(profile: ModelProfile, row: Row) -> str:
    return row.name or f"{profile.model} itself"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _runtime(profile: ModelProfile, runtime: str) -> Iterator[str]:
    times = profile.times[runtime]
    macs = sum(row.macs or 0 for row in profile.rows)

    def part(seconds: float) -> str:
        return f"{_ms(seconds)} ms ({100 * seconds / times.call_s:.1f} %)"

    yield (
        f"{runtime}: {_ms(times.call_s)} ms a call = {part(times.layers_s)} in layers + "
        f"{part(sum(times.other.values()))} in operators of no known layer + {part(times.outside_s)} outside operators"
    )
    low, high = times.quartiles_s
    interference = "; something disturbed them, so run it again" if times.has_interference else ""
    yield f"  half of the calls took {_ms(low)} to {_ms(high)} ms{interference}"
    yield f"  over all: {significant(macs / times.call_s / GIGA)} GMAC/s"
    idle = sum(row.seconds.get(runtime, 0.0) for row in profile.rows if not row.macs)
    yield f"  layers without MACs: {part(idle)}"
    yield "  slowest"
    yield from _listed(profile, profile.slowest(runtime), runtime)
    slow = profile.slow_for_work(runtime)
    if slow:
        least = f"{100 * MIN_SHARE:g} %"
        yield f"  slow for their work: the fewest GMAC/s, of the layers with MACs and {least} of the time or more"
        yield from _listed(profile, slow, runtime)
    if times.other:
        other = ", ".join(f"{operator} {part(seconds)}" for operator, seconds in times.other.items())
        yield f"  of no known layer: {other}"


def _listed(profile: ModelProfile, rows: Iterable[Row], runtime: str) -> Iterator[str]:
    """Layers with their time, and their work by second."""
    for line in lines_of([_speed(profile, row, runtime) for row in rows]):
        yield f"  {line}"


def _speed(profile: ModelProfile, row: Row, runtime: str) -> dict[str, str]:
    rate, seconds = row.macs_per_s(runtime), row.seconds[runtime]
    return {
        "layer": _name(profile, row),
        "kind": row.kind,
        "ms": _ms(seconds),
        "%": f"{100 * (profile.share(row, runtime) or 0.0):.1f}",
        "GMAC/s": significant(rate / GIGA) if rate else "",
        "GB/s": significant(row.moved_bytes / seconds / GIGA) if row.moved_bytes else "",
    }
