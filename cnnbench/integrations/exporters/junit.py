"""JUnit XML, for what shows test results: a test case for each case of the suite, with its status and reason.

Elements and attributes as in the schema of Jenkins' xUnit plugin (`junit-10.xsd`).
"""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from xml.etree import ElementTree

from cnnbench.analysis.stats import CONFIDENCE
from cnnbench.integrations.exporters.converted import UNRECORDED, Converted, Measured, machine_of, measured, unrecorded
from cnnbench.records.record import Record, Status
from cnnbench.records.run_folder import Run
from cnnbench.report.reasons import reason_text

DECLARATION = "<?xml version='1.0' encoding='utf-8'?>\n"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML may hold, not even escaped (XML 1.0, section 2.2)."""
OUTCOME: Mapping[Status, str | None] = {
    "ok": None,
    "noisy": None,
    "invalid": "failure",
    "failed": "error",
    "unavailable": "skipped",
}


def convert(run: Run) -> Converted:
    """The run as one test suite; `time` is the seconds spent in timed calls."""
    outcomes = Counter(OUTCOME[record.status] for record in run.records.values())
    missing = unrecorded(run)
    total_s = sum(map(_timed_s, run.records.values()))
    counts = {
        "tests": str(len(run.records) + len(missing)),
        "failures": str(outcomes["failure"]),
        "errors": str(outcomes["error"]),
    }
    root = ElementTree.Element("testsuites", {"name": "cnnbench", **counts, "time": f"{total_s:.3f}"})
    about = {"name": run.suite, "skipped": str(outcomes["skipped"] + len(missing)), "time": f"{total_s:.3f}"}
    suite = ElementTree.SubElement(root, "testsuite", {**about, **counts, "timestamp": _timestamp(run.started)})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in {"machine": machine_of(run), **run.software}.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": str(value)})
    figures = {each.record.id: each for each in measured(run)}
    for record in run.records.values():
        test = _test(suite, record.id, record.case.spec.label, _timed_s(record))
        outcome, why = OUTCOME[record.status], "\n".join(_lines(record))
        if outcome is not None:
            first = reason_text(record.reasons[0]) if record.reasons else ""
            ElementTree.SubElement(test, outcome, {"type": _type(record), "message": first}).text = why
        elif record.id in figures:
            ElementTree.SubElement(test, "system-out").text = _figures(record, figures[record.id])
    for id_ in missing:
        test = _test(suite, id_, id_.partition("/")[0], 0.0)
        ElementTree.SubElement(test, "skipped", {"type": "unrecorded", "message": UNRECORDED})
    ElementTree.indent(root)
    text = _NOT_XML.sub("", ElementTree.tostring(root, encoding="unicode"))
    lost = ["figures are text in system-out; samples are not in it"]
    return Converted({".xml": f"{DECLARATION}{text}".encode()}, lost)


def _test(suite: ElementTree.Element, id_: str, model: str, seconds: float) -> ElementTree.Element:
    attributes = {"classname": model, "name": id_, "time": f"{seconds:.3f}"}
    return ElementTree.SubElement(suite, "testcase", attributes)


def _lines(record: Record) -> list[str]:
    """A line for each reason, with its code."""
    return [f"{reason_text(reason)} [{reason.code}]" for reason in record.reasons]


def _type(record: Record) -> str:
    """The code of the first reason."""
    return record.reasons[0].code if record.reasons else record.status


def _figures(record: Record, each: Measured) -> str:
    time, rate = each.call_s, each.images_per_s
    lines = [f"status: {record.status}", *_lines(record), f"median_s: {time.value:.6g}"]
    if time.low is not None and time.high is not None:
        lines.append(f"interval_s ({CONFIDENCE:.0%}): {time.low:.6g} to {time.high:.6g}")
    lines.append(f"images_per_s: {rate.value:.6g}")
    lines.append(f"launches: {len(each.launches)}")
    return "\n".join(lines)


def _timed_s(record: Record) -> float:
    return record.measurement.timed_s if record.measurement else 0.0


def _timestamp(started: str) -> str:
    """ISO 8601 to the second, without an offset, as the schema requires; in UTC."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:  # a run's folder that does not record it
        moment = datetime.fromtimestamp(0, tz=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
