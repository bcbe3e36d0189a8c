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

    Against the closed form where there is one, layer by layer. Without one, only the two MAC counters can be held
    against each other; they are, in total, because they may attribute functional calls to different modules.
    """
    if witnesses.closed_form is None:
        dispatch, fvcore = witnesses.counted.get("dispatch"), witnesses.counted.get("fvcore")
        if dispatch is None or fvcore is None or total(dispatch, MACS) == total(fvcore, MACS):
            return []
        return [f"dispatch counts {total(dispatch, MACS):,} MACs, fvcore {total(fvcore, MACS):,}"]
    found = []
    for witness, counts in witnesses.counted.items():
        for figure in SPEAKS_OF[witness]:
            for layer in witnesses.closed_form | counts:
                ours = witnesses.closed_form.get(layer, (0, 0))[figure]
                theirs = counts.get(layer, (0, 0))[figure]
                if ours != theirs:
                    found.append(f"{layer}: {ours:,} {NAMES[figure]} by formula, {theirs:,} by {witness}")
    return found + _against_published(spec, witnesses)


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
    if witnesses.closed_form is not None:  # which published figures are held against
        heard = ["closed form", *heard, *(["published"] if witnesses.published else [])]
    return CountsSummary(
        params=total(params, PARAMS),
        macs=total(macs, MACS),
        closed_form=witnesses.closed_form is not None,
        witnesses=heard,
        disagreements=disagreements(spec, witnesses),
        top1_percent=witnesses.published.top1_percent if witnesses.published else None,
    )
