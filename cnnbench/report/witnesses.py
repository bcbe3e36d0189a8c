"""Who counted what of each model: a table of numbers, and what the differences come to."""

from collections.abc import Iterable
from contextlib import suppress

import pandas as pd

from cnnbench.archs import catalogue
from cnnbench.archs.training import backward_macs
from cnnbench.case import ModelSpec
from cnnbench.counts import MACS, PARAMS, SPEAKS_OF, find, total
from cnnbench.errors import CnnbenchError
from cnnbench.record import Record, Witnesses

WITNESSES = ("closed form", "module", "dispatch", "fvcore", "onnx", "backward", "published")
GIGA = 10**9


def witnesses_table(records: Iterable[Record]) -> pd.DataFrame:
    """Three rows per model: what each witness of its counts says, of parameters, MACs, and MACs of the backward pass.

    A published number of MACs is rounded to a thousandth of 1e9 by its publisher.
    """
    rows: dict[tuple[str, str], dict[str, object]] = {}
    for record in records:
        if record.artifact is None:
            continue
        for of, by_witness in _said(record.case.spec, record.artifact.witnesses).items():
            if by_witness:
                row = {"model": record.case.spec.label, "of": of}
                rows[record.case.spec.label, of] = row | {name: by_witness.get(name) for name in WITNESSES}
    return pd.DataFrame(rows.values()).convert_dtypes()


def witness_notes(records: Iterable[Record]) -> list[str]:
    """What the witnesses' differences come to: known reasons, and what has none."""
    notes: dict[str, None] = {}
    for record in records:
        if record.artifact is None or catalogue.find(record.case.spec.model) is None:
            continue
        with suppress(CnnbenchError):  # a model that this version has at other sizes
            findings = find(record.case.spec, record.artifact.witnesses)
            said = [*findings.explained, *(f"DISAGREE: {line}" for line in findings.disagreements)]
            notes |= dict.fromkeys(f"{record.case.spec.label}: {line}" for line in said)
    return list(notes)


def _said(spec: ModelSpec, witnesses: Witnesses) -> dict[str, dict[str, int]]:
    """What each witness says, by what it speaks of."""
    counted, published = witnesses.counted, witnesses.published
    closed = {"closed form": witnesses.closed_form} if witnesses.closed_form is not None else {}
    params = {name: total(each, PARAMS) for name, each in (closed | counted).items() if _speaks(name, PARAMS)}
    macs = {name: total(each, MACS) for name, each in (closed | counted).items() if _speaks(name, MACS)}
    backward = {"backward": total(counted["backward"], MACS)} if "backward" in counted else {}
    if backward and catalogue.find(spec.model) is not None:
        with suppress(CnnbenchError):
            network = catalogue.get(spec.model).network(spec.image_size, spec.classes)
            backward["closed form"] = sum(map(backward_macs, network.layers))
    if published is not None:
        params["published"] = published.params
        if published.giga_macs is not None:
            macs["published"] = round(published.giga_macs * GIGA)
    return {"parameters": params, "MACs": macs, "backward MACs": backward}


def _speaks(witness: str, figure: int) -> bool:
    return witness == "closed form" or figure in SPEAKS_OF.get(witness, ())
