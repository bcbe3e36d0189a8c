"""JUnit XML, for what shows test results: a test case for each case of the suite, with its status and reason.

Elements and attributes as in the schema of Jenkins' xUnit plugin (`junit-10.xsd`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from cnnbench.analysis.stats import CONFIDENCE
from cnnbench.integrations.exporters.converted import UNRECORDED, Converted, Measured, machine_of, measured_of, rate_of
from cnnbench.records.record import Record, Status
from cnnbench.records.run_folder import Run
from cnnbench.report.reasons import reason_text

DECLARATION = "<?xml version='1.0' encoding='utf-8'?>\n"
OUTCOME: Mapping[Status, str] = {"invalid": "failure", "failed": "error", "unavailable": "skipped"}
"""The elements of tests that did not pass."""


def convert(run: Run) -> Converted:
    """The run as one test suite; `time` is the seconds spent in timed calls."""
    tests = [_test(record) for record in run.records.values()]
    tests += [_unrecorded(id_) for id_ in run.cases if id_ not in run.records]
    outcomes = Counter(child.tag for test in tests for child in test)
    counts = {
        "tests": str(len(tests)),
        "failures": str(outcomes["failure"]),
        "errors": str(outcomes["error"]),
        "time": f"{sum(map(_timed_s, run.records.values())):.3f}",
    }
    about = {"name": run.suite, "skipped": str(outcomes["skipped"]), **counts, "timestamp": _timestamp(run.started)}
    root = Element("testsuites", {"name": "cnnbench", **counts})
    suite = SubElement(root, "testsuite", about)
    properties = SubElement(suite, "properties")
    for name, value in {"machine": machine_of(run), **run.software}.items():
        SubElement(properties, "property", {"name": name, "value": str(value)})
    suite.extend(tests)
    indent(root)
    text = tostring(root, encoding="unicode")
    return Converted({".xml": f"{DECLARATION}{text}"}, ["figures are text in system-out; samples are not in it"])


def _test(record: Record) -> Element:
    attributes = {"classname": record.case.spec.label, "name": record.id, "time": f"{_timed_s(record):.3f}"}
    test, outcome = Element("testcase", attributes), OUTCOME.get(record.status)
    lines = [f"{reason_text(reason)} [{reason.code}]" for reason in record.reasons]
    if outcome is not None:
        code, first = (record.reasons[0].code, reason_text(record.reasons[0])) if lines else (record.status, "")
        SubElement(test, outcome, {"type": code, "message": first}).text = "\n".join(lines)
    elif (each := measured_of(record)) is not None:
        SubElement(test, "system-out").text = "\n".join([f"status: {record.status}", *lines, *_figures(each)])
    elif (rate := rate_of(record)) is not None:
        figures = [f"queries_per_s: {rate.value:.6g}", f"launches: {len(record.launches)}"]
        SubElement(test, "system-out").text = "\n".join([f"status: {record.status}", *lines, *figures])
    return test


def _unrecorded(id_: str) -> Element:
    test = Element("testcase", {"classname": id_.partition("/")[0], "name": id_, "time": "0.000"})
    SubElement(test, "skipped", {"type": "unrecorded", "message": UNRECORDED})
    return test


def _figures(each: Measured) -> Iterator[str]:
    time = each.call_s
    yield f"median_s: {time.value:.6g}"
    if time.low is not None and time.high is not None:
        yield f"interval_s ({CONFIDENCE:.0%}): {time.low:.6g} to {time.high:.6g}"
    yield f"images_per_s: {each.images_per_s.value:.6g}"
    yield f"launches: {len(each.launches)}"


def _timed_s(record: Record) -> float:
    return sum(launch.timed_s for launch in record.launches)


def _timestamp(started: str) -> str:
    """ISO 8601 to the second, without an offset, as the schema requires; in UTC."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:  # a run's folder that does not record it
        moment = datetime.fromtimestamp(0, tz=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
