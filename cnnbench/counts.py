"""What the witnesses of a model's counts say of each other."""

from cnnbench.archs import catalogue
from cnnbench.case import ModelSpec
from cnnbench.record import Counts, CountsSummary, Witnesses

PARAMS, MACS = 0, 1
SPEAKS_OF = {"module": (PARAMS,), "dispatch": (MACS,), "fvcore": (MACS,)}
"""Which of (parameters, MACs) each witness counts."""
NAMES = ("parameters", "MACs")


def total(counts: Counts, figure: int) -> int:
    """Parameters or MACs over all layers."""
    return sum(pair[figure] for pair in counts.values())


def disagreements(spec: ModelSpec, witnesses: Witnesses) -> list[str]:
    """Every disagreement, in words that name the layer and both numbers.

    Against the closed form where there is one, layer by layer; else in total, because the counters may attribute
    functional calls to different modules.
    """
    if witnesses.closed_form is None:
        return _in_total(spec, witnesses)
    found = []
    for witness, counts in witnesses.counted.items():
        for figure in SPEAKS_OF[witness]:
            for layer in witnesses.closed_form | counts:
                ours = witnesses.closed_form.get(layer, (0, 0))[figure]
                theirs = counts.get(layer, (0, 0))[figure]
                if ours != theirs:
                    found.append(f"{layer}: {ours:,} {NAMES[figure]} by formula, {theirs:,} by {witness}")
    return found + _against_published(spec, witnesses)


def _in_total(spec: ModelSpec, witnesses: Witnesses) -> list[str]:
    """The two MAC counters against each other, and module and dispatch counter against published figures.

    The latter only at the model's own number of classes and, for MACs, at the published image size.
    """
    found = []
    dispatch, fvcore = witnesses.counted.get("dispatch"), witnesses.counted.get("fvcore")
    if dispatch is not None and fvcore is not None and total(dispatch, MACS) != total(fvcore, MACS):
        found.append(f"{total(dispatch, MACS):,} MACs by dispatch, {total(fvcore, MACS):,} by fvcore")
    published = witnesses.published
    if published is None or spec.classes is not None:
        return found
    params = total(witnesses.counted["module"], PARAMS)
    if params != published.params:
        found.append(f"{params:,} parameters by module, {published.params:,} published")
    if dispatch is not None and published.giga_macs is not None and spec.image_size is None:
        giga_macs = total(dispatch, MACS) / 1e9
        if round(giga_macs, 3) != published.giga_macs:
            found.append(f"{giga_macs:.3f} G MACs by dispatch, {published.giga_macs:.3f} G published")
    return found


def _against_published(spec: ModelSpec, witnesses: Witnesses) -> list[str]:
    """torchvision's published totals against the formulas at the published size and number of classes."""
    published = witnesses.published
    if published is None:
        return []
    arch = catalogue.get(spec.model)
    size = (published.image_size, published.image_size) if published.image_size else None
    network = arch.network(size, arch.classes)
    found = []
    if network.params != published.params:
        found.append(f"{network.params:,} parameters by formula, {published.params:,} published")
    if published.giga_macs is not None and round(network.macs / 1e9, 3) != published.giga_macs:
        found.append(f"{network.macs / 1e9:.3f} G MACs by formula, {published.giga_macs:.3f} G published")
    return found


def summary(spec: ModelSpec, witnesses: Witnesses) -> CountsSummary:
    """Totals and disagreements, for a record."""
    params = witnesses.closed_form or witnesses.counted["module"]
    macs = witnesses.closed_form or witnesses.counted.get("dispatch") or witnesses.counted.get("fvcore") or {}
    heard = list(witnesses.counted)
    if witnesses.closed_form is not None:
        heard = ["closed form", *heard]
    if witnesses.published is not None and (witnesses.closed_form is not None or spec.classes is None):
        heard.append("published")
    return CountsSummary(
        params=total(params, PARAMS),
        macs=total(macs, MACS),
        closed_form=witnesses.closed_form is not None,
        witnesses=heard,
        disagreements=disagreements(spec, witnesses),
        top1_percent=witnesses.published.top1_percent if witnesses.published else None,
    )
