"""What the exact gate found, in lines for people."""

from collections.abc import Iterator

from cnnbench.gate.exact import ExactReport


def lines(report: ExactReport, command: str) -> Iterator[str]:
    """Every difference, what other versions may have to do with it, and the lines that the file would need."""
    models = len(report.found.models)
    if not report.differences:
        yield f"{models} models are exactly as {report.file} says"
    for difference in report.differences:
        yield str(difference)
    if report.versions:
        yield f"the file was made with other versions: {'; '.join(report.versions)}"
        if report.differences:
            yield "an exporter of another version may write other operators and sizes of the same network"
    if report.differences:
        differing = len({difference.model for difference in report.differences})
        yield f"{len(report.differences)} figures of {differing} of {models} models differ from {report.file}"
    if report.replacement:
        yield "its lines would be:"
        yield report.replacement.rstrip()
    if report.differences or report.versions:
        yield f"if this is meant: {command} --update"
