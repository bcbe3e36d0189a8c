"""The exact gate's report in lines for people."""

from collections.abc import Iterator

from cnnbench.gate.exact import ExactReport


def lines(report: ExactReport, command: str) -> Iterator[str]:
    """Every difference, the versions that may explain it, and the lines that the file would need."""
    models = len(report.found.models)
    if not report.differences:
        yield f"{models} models match {report.file} exactly"
    for difference in report.differences:
        yield str(difference)
    if report.versions:
        yield f"the file was written with other versions: {'; '.join(report.versions)}"
        if report.differences:
            yield "another exporter version may write other operators and sizes for the same network"
    if report.differences:
        differing = len({difference.model for difference in report.differences})
        yield f"{len(report.differences)} figures of {differing} of {models} models differ from {report.file}"
    if report.replacement:
        yield "its lines would be:"
        yield report.replacement.rstrip()
    if report.differences or report.versions:
        yield f"if this is meant: {command} --update"
