"""What there is, as rows: models, runtimes, devices, suites."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cnnbench.networks.registry import ARCHITECTURES
from cnnbench.records.artifact import library_versions
from cnnbench.runner.tasks.probe import probe_all
from cnnbench.suite.load import bundled_suites, load_suite
from cnnbench.suite.runtimes import runtimes as kinds


def models() -> list[dict[str, Any]]:
    """Every network with a closed form, with its counts at its own size."""
    rows = []
    for architecture in ARCHITECTURES.values():
        network = architecture.network()
        rows.append(
            {
                "model": architecture.name,
                "input": "x".join(map(str, architecture.image)),
                "classes": architecture.classes,
                "params": network.params,
                "macs": network.macs,
                "module": "torchvision" if architecture.from_torchvision else "cnnbench",
                "source": architecture.source,
            }
        )
    return rows


def runtimes() -> list[dict[str, Any]]:
    """What executes models, which workloads each can run, and the installed library."""
    versions = library_versions()
    return [
        {
            "runtime": kind.name,
            "variants": ", ".join(kind.variants),
            "workloads": ", ".join(kind.workloads),
            "precisions": ", ".join(kind.precisions),
            "layouts": ", ".join(kind.layouts),
            "library": ", ".join(f"{name} {versions[name]}" for name in kind.libraries if name in versions),
            "what": kind.what,
        }
        for kind in kinds().values()
    ]


def devices() -> list[dict[str, Any]]:
    """Every device in every runtime, tried in a child process."""
    with TemporaryDirectory(prefix="cnnbench-") as logs:
        probed = probe_all(Path(logs))
    return [
        {
            "device": device,
            "runtime": runtime,
            "works": "yes" if found.works else "no",
            "why": found.reason or found.name,
        }
        for (runtime, device), found in probed.items()
    ]


def suites() -> list[dict[str, Any]]:
    """The suites that come with cnnbench."""
    suites = [load_suite(str(path)) for path in bundled_suites().values()]
    return [{"suite": s.name, "cases": len(s.cases), "description": s.description} for s in suites]
