"""The time of each layer in each runtime beside its work: a table, the slowest layers, and the rest of the call."""

from collections.abc import Iterator
from typing import Any

from cnnbench.networks.layers import spelled
from cnnbench.networks.units import MB
from cnnbench.records.layer_profile import MIN_SHARE, ModelProfile, Row
from cnnbench.report.format import in_giga, significant
from cnnbench.report.plain import lines_of
from cnnbench.runner.tasks.layer_profile import NOTE

EMPTY = (
    "An empty cell: the runtime ran no operator for that layer. The layer has no work, or it is fused into another, as "
    "batch normalisation, activations and sums are into a convolution."
)


def as_json(profile: ModelProfile) -> dict[str, Any]:
    """All of it for programs: seconds of one call, work of the whole batch; null where there is none."""
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
    yield f"{NOTE}\n"
    yield from lines_of([_cells(profile, row) for row in profile.rows])
    yield EMPTY
    for runtime in profile.times:
        yield ""
        yield from _runtime(profile, runtime)
    if profile.left_out:
        yield "\nnot in the MACs and bytes"
        yield from (f"  - {line}" for line in profile.left_out)
    yield from (f"\n{runtime}: not profiled: {reason}" for runtime, reason in profile.failures.items())


def _cells(profile: ModelProfile, row: Row) -> dict[str, str]:
    cells = {
        **_layer(profile, row),
        "MACs": f"{row.macs:,}" if row.macs else "",
        "MB moved": significant(row.moved_bytes / MB) if row.moved_bytes else "",
    }
    for runtime in (*profile.times, *profile.failures):
        cells |= {f"{runtime} {unit}": cell for unit, cell in _speed(profile, row, runtime).items()}
    return cells


def _layer(profile: ModelProfile, row: Row) -> dict[str, str]:
    return {"layer": row.name or f"{profile.model} itself", "kind": row.kind}


def _speed(profile: ModelProfile, row: Row, runtime: str) -> dict[str, str]:
    """Time, share of the call, and work per second; empty where the runtime ran nothing for the layer."""
    seconds, share, rate = row.seconds.get(runtime), profile.share(row, runtime), row.macs_per_s(runtime)
    return {
        "ms": "" if seconds is None else f"{seconds * 1e3:.3f}",
        "%": "" if share is None else f"{100 * share:.1f}",
        "GMAC/s": in_giga(rate) if rate else "",
    }


def _runtime(profile: ModelProfile, runtime: str) -> Iterator[str]:
    times = profile.times[runtime]
    macs = sum(row.macs or 0 for row in profile.rows)
    unworked_s = sum(row.seconds.get(runtime, 0.0) for row in profile.rows if not row.macs)

    def part(seconds: float) -> str:
        return f"{seconds * 1e3:.3f} ms ({100 * seconds / times.call_s:.1f} %)"

    def cells(row: Row) -> dict[str, str]:
        rate = in_giga(row.moved_bytes / row.seconds[runtime]) if row.moved_bytes else ""
        return {**_layer(profile, row), **_speed(profile, row, runtime), "GB/s": rate}

    yield (
        f"{runtime}: {times.call_s * 1e3:.3f} ms a call = {part(times.layers_s)} in layers + "
        f"{part(sum(times.other.values()))} in operators without a layer + {part(times.outside_s)} framework overhead"
    )
    low, high = times.quartiles_s
    interference = "; interference was detected, repeat the profile" if times.has_interference else ""
    yield f"  half of the calls took {low * 1e3:.3f} to {high * 1e3:.3f} ms{interference}"
    yield f"  overall: {in_giga(macs / times.call_s)} GMAC/s"
    yield f"  layers without MACs: {part(unworked_s)}"
    yield "  slowest"
    yield from lines_of(map(cells, profile.slowest(runtime)), indent="    ")
    if slow := profile.slow_for_work(runtime):
        few = f"the fewest GMAC/s, of the layers with MACs and {100 * MIN_SHARE:g} % of the time or more"
        yield f"  least efficient: {few}"
        yield from lines_of(map(cells, slow), indent="    ")
    if times.other:
        other = ", ".join(f"{operator} {part(seconds)}" for operator, seconds in times.other.items())
        yield f"  without a layer: {other}"
