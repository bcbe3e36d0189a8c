"""pytest-benchmark's storage file, for `pytest-benchmark compare` and its readers (Bencher, github-action-benchmark).

Fields as in pytest-benchmark 5.3 (`plugin.py`, `stats.py`): seconds per call, samples of all launches in one pool; the
rest is in `extra_info`. A benchmark is identified by its `fullname`, the case's id, as in the pytest plugin.
"""

from typing import Any

from cnnbench.errors import InputError
from cnnbench.integrations.exporters.converted import Converted, Measured, extra_info, left_out, measured
from cnnbench.records.run_folder import Run
from cnnbench.report.escape import strict_json


def convert(run: Run) -> Converted:
    """The run as one storage file. Raises InputError where pytest-benchmark is not installed."""
    try:
        from pytest_benchmark import __version__
    except ImportError:
        raise InputError(
            "--to pytest-benchmark: expected pytest-benchmark, whose own statistics are used; it is not installed: "
            "pip install 'cnnbench[pytest]'"
        ) from None
    content = {
        "machine_info": _machine_info(run),
        "commit_info": _commit_info(run),
        "benchmarks": [_benchmark(each) for each in measured(run)],
        "datetime": run.started,
        "version": __version__,
    }
    lost = ["samples of all launches are in one pool, without the phases of training; extra_info has each launch"]
    return Converted({".json": strict_json(content, 4)}, [*lost, *left_out(run)])


def _benchmark(each: Measured) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    record, stats = each.record, Stats()
    for sample in each.samples_s:
        stats.update(sample)
    return {
        "group": record.case.label,
        "name": record.id,
        "fullname": record.id,
        "params": each.params,
        "param": record.id,
        "extra_info": extra_info(each),
        "options": {"timer": "cnnbench", "disable_gc": True},
        "stats": {**stats.as_dict(), "data": stats.data, "iterations": 1},
    }


def _machine_info(run: Run) -> dict[str, Any]:
    """In pytest-benchmark's fields; `node` is the CPU's name, because runs do not record host names."""
    facts = run.environment.machine if run.environment else None
    cpu, architecture = (facts.cpu, facts.architecture or "") if facts else ("", "")
    system, _, release = facts.system.partition(" ") if facts else ("", "", "")
    return {
        "node": cpu or "unknown",
        "processor": architecture,
        "machine": architecture,
        "python_implementation": "CPython",
        "python_version": run.software.get("python", ""),
        "release": release,
        "system": system,
        "cpu": {"brand_raw": cpu, "arch": architecture, "count": facts.logical_cores if facts else None},
        "software": run.software,
    }


def _commit_info(run: Run) -> dict[str, Any]:
    commit = run.software.get("git_commit") or "unversioned"
    return {
        "id": commit.removesuffix("-dirty"),
        "time": run.started,
        "author_time": run.started,
        "dirty": commit.endswith("-dirty"),
        "project": run.suite,
        "branch": "(unknown)",
    }
