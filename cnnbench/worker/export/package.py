"""A model in inference compiled ahead by AOTInductor: a package of machine code and weights, for one batch."""

import time
import warnings
from pathlib import Path

import torch._inductor
from safetensors.torch import load_file

from cnnbench.records import files
from cnnbench.records.artifact import PACKAGE_FACTS, WEIGHTS, package_name, read_package, seal
from cnnbench.records.cache import locked
from cnnbench.records.messages import BuildPackage
from cnnbench.records.record import PackageFacts
from cnnbench.suite.runtimes import split
from cnnbench.worker import models
from cnnbench.worker.export import inference
from cnnbench.worker.reference.parity import open_artifact, tiled
from cnnbench.worker.runtimes import device as devices


def build_package(request: BuildPackage) -> PackageFacts:
    """Export and compile the model with the artifact's weights into a package beside it; others wait meanwhile.

    That the model cannot be exported is in the facts. Raises torch's own error where it cannot be compiled.
    """
    folder = Path(request.folder)
    out = folder / package_name(request.case, request.threads)
    with locked(folder):
        known = read_package(out)
        if known is not None and known.error is None:
            return known
        facts = _build(request, folder, out)
        files.write(out.with_name(out.name + PACKAGE_FACTS), facts.model_dump_json(indent=1))
        seal(folder, open_artifact(folder)[0].key)
    return facts


def _build(request: BuildPackage, folder: Path, out: Path) -> PackageFacts:
    known, reference = open_artifact(folder)
    device = devices.use(request.case.device)
    module = models.rebuild(request.case.spec, known)
    module.load_state_dict(load_file(folder / WEIGHTS))
    module.eval().to(device)
    inputs = tuple(devices.placed(tiled(reference.images, request.case.batch), device))
    settings = {"freezing": split(request.case.runtime)[1] == "freezing", "cpp.threads": request.threads}
    torch.set_num_threads(request.threads)
    start = time.perf_counter()
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        try:
            program = torch.export.export(module, inputs)
        except Exception as error:
            return PackageFacts(error=inference.said(error))
        exported = time.perf_counter()
        with files.replacing(out) as file:
            package = file.with_name(f"{file.name}.pt2")  # the ending that torch demands
            try:
                torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=settings)
                package.replace(file)
            finally:
                package.unlink(missing_ok=True)
    seconds = {"export": exported - start, "compile": time.perf_counter() - exported}
    return PackageFacts(package_bytes=out.stat().st_size, seconds=seconds)
