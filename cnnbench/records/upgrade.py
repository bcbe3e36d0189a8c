"""What older versions wrote, as today's: its keys, and what it said in English, which is parsed nowhere else."""

import re
from collections.abc import Mapping
from typing import Any

from cnnbench.records.reason import Code, InterferenceKind

Json = dict[str, Any]
"""An object of another version, not checked yet; what comes out is checked by today's types."""

OLDER = (1, 2, 3, 4)
"""The versions that are read."""


WITH_AMP = 10
"""The version since which `bf16` and `fp16` are no longer automatic mixed precision."""


def with_amp(content: Json) -> Json:
    """A record of an older version with today's names of automatic mixed precision."""
    case = content.get("case")
    if isinstance(case, dict) and case.get("precision") in ("bf16", "fp16"):
        content = {**content, "case": {**case, "precision": f"amp-{case['precision']}"}}
    return {**content, "id": id_with_amp(str(content.get("id", "")))}


def id_with_amp(id_: str) -> str:
    """The same of an id."""
    return re.sub(r"/(cpu|cuda)/(bf16|fp16)(?=/)", r"/\1/amp-\2", id_)


def upgraded(record: Json) -> Json:
    """A record of an older schema in the shape of today's `Record`. Raises ValueError for what was never one."""
    try:
        return _record(record)
    except (AttributeError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"not a record of schema {record.get('schema_version')}: {error!r}"[:200]) from None


def _launch(launch: Json) -> Json:
    launch = _renamed(launch, race="group", turns="blocks", steady="converged")
    launch["blocks"] = [_renamed(block, disturbed="interference") for block in launch["blocks"]]
    for block in launch["blocks"]:
        block["interference"] = [_interference(each) for each in block.get("interference", [])]
    if launch.get("ran"):
        launch["ran"] = _ran(launch["ran"])
    return launch


def _record(record: Json) -> Json:
    record = _renamed(record, race="group")
    record["reasons"] = [_reason(reason) for reason in record.get("reasons", [])]
    if record.get("counts"):
        record["counts"] = _renamed(record["counts"], witnesses="counters")
    if record.get("artifact"):
        record["artifact"] = _artifact(record["artifact"])
    group, ran = record.pop("group", None), record.pop("ran", None)
    launches = [_launch(launch) for launch in (record.get("measurement") or {}).get("launches", [])]
    if launches:  # in schema 1 a record had one launch, and what belongs to it; what ran was always the last one's
        launches[0].setdefault("group", group or "")
        if ran:
            launches[-1]["ran"] = _ran(ran)
        record["measurement"] = {"launches": launches}
    return {key: value for key, value in record.items() if key not in ("schema_version", "id")}


def _artifact(facts: Json) -> Json:
    facts = _renamed(facts, witnesses="counters", signal="output_rms")
    return {**facts, "counters": _renamed(facts["counters"], silent="failed")}


def _ran(ran: Json) -> Json:
    """Of the facts that had no names, those that are judged or shown have fields of their own."""
    facts = dict(ran.get("facts", {}))
    named = ("torch_in_process", "providers", "nodes", "operators", "graph_optimization", "graph_breaks")
    fields = {name: facts.pop(name) for name in named if name in facts}
    tf32 = [facts.pop(name) for name in ("tf32_matmul", "tf32_cudnn") if name in facts]
    return {**ran, **fields, "tf32": any(tf32) if tf32 else None, "facts": facts}


def _renamed(content: Json, **names: str) -> Json:
    return {names.get(key, key): value for key, value in content.items()}


INTERFERENCE: tuple[tuple[InterferenceKind, str, int], ...] = (
    ("steal", r"the host took (\d+) % of the CPUs", 100),
    ("other-processes", r"others used (\d+) % of the CPUs", 100),
    ("throttled", r"the quota was spent and threads paused for ([\d.]+) of (?P<whole>[\d.]+) s", 1),
    ("thermal", r"cores slowed down to cool (?:once|(\d+) times)", 1),
    ("swap", r"(\d+) pages? went to or from swap", 1),
)
"""Kind, the sentence, and what its amount is divided by, where the sentence does not name the whole."""


def _interference(said: object) -> object:
    if not isinstance(said, str):
        return said
    for kind, sentence, whole in INTERFERENCE:
        if match := re.fullmatch(sentence, said):
            return {"kind": kind, "amount": float(match[1] or 1) / float(match.groupdict().get("whole", whole))}
    raise ValueError(f"not a known interference: {said[:100]!r}")


REASONS: tuple[tuple[str, Code, str], ...] = (
    (r"the interval of the median is wider than .*", "wide-interval", ""),
    (r"the times rose by (\d+)% .*", "drift", r"+\1 %"),
    (r"the times fell by (\d+)% .*", "drift", r"-\1 %"),
    (r"the times have two modes, (\d+)% apart", "two-modes", r"\1 % apart"),
    (r"only (\d+ of \d+) turns were undisturbed, and (\d+) are needed; .*: (.*)", "interference", r"\1, not \2; \3"),
    (r"nothing was measured", "not-measured", ""),
    (r"parity of (.*)", "parity", r"\1"),
    (r"counts disagree: (.*)", "counts", r"\1"),
    (r"(.*%) of a layer's activations are denormal numbers", "denormals", r"\1"),
    (r"the loss of the last timed step is (.*)", "not-finite", r"\1"),
    (r"TF32 is on (for .*), and fp32 was asked", "tf32", r"\1"),
    (r"(?:device )(.* was asked and .* ran)", "device", r"\1"),
    (r"(?:precision )(.* was asked and .* ran)", "precision", r"\1"),
    (r"the layout (.*)", "layout", r"\1"),
    (r"(\d+) graph breaks, (.*)", "graph-breaks", r"\1, \2"),
    (r"(.*(?:traces this process|is attached to this process|traces this one).*)", "traced", r"\1"),
    (r"ONNX export failed: (.*)", "export-failed", r"\1"),
    (r"the training step cannot be exported: (.*)", "not-exportable", r"\1"),
    (r"(.*): no (.*) device that it can use: (.*)", "no-device", r"\1 on \2: \3"),
    (r"no (.*) device that (.*) can use: (.*)", "no-device", r"\2 on \1: \3"),
    (r"(.*): it does not work here: (.*)", "no-runtime", r"\1: \2"),
    (r"(.* (?:alone|on a CPU is bf16|is for CUDA devices))", "unsupported", r"\1"),
    (r"((?:a (?:further )?launch failed: )?out of memory.*)", "out-of-memory", r"\1"),
    (r"((?:a (?:further )?launch failed: )?no answer within .*)", "hung", r"\1"),
    (r"((?:a (?:further )?launch failed: )?the worker (?:was killed|exited|closed).*)", "crashed", r"\1"),
    (r"a (?:further )?launch failed: (.*)", "error", r"in another launch: \1"),
)
"""The sentence, its code, and what of it is the detail."""


MAX_SENTENCE = 10_000
"""Characters; no sentence of an older version was longer."""


def _reason(said: object) -> Mapping[str, str] | object:
    if not isinstance(said, str):
        return said
    for sentence, code, detail in REASONS if len(said) <= MAX_SENTENCE else ():
        if match := re.fullmatch(sentence, said, re.DOTALL):
            return {"code": code, "detail": match.expand(detail)}
    return {"code": "other", "detail": said}
