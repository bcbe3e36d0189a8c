"""AOTInductor: a package that was compiled before the run, loaded and called without tracing or compiling anything."""

from pathlib import Path

import torch

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import package_name, read_package
from cnnbench.records.record import ArtifactFacts, Ran
from cnnbench.suite.case import Case, Device
from cnnbench.suite.runtimes import split
from cnnbench.worker.reference.parity import Tensors, several
from cnnbench.worker.runtimes import device as devices
from cnnbench.worker.runtimes.base import Runtime
from cnnbench.worker.runtimes.compiled import check_compiler
from cnnbench.worker.timing.measure import Phases


class Aot(Runtime):
    """Timed: one run of the loaded package under inference mode, as a C++ program makes it."""

    takes_any_batch = False

    def __init__(self, case: Case, facts: ArtifactFacts, folder: Path, batch: Tensors, threads: int) -> None:
        file = folder / package_name(case, threads)
        built = read_package(file)
        if built is None or not file.exists():
            raise WorkerError("the package that is compiled ahead is not there")
        self.case, self.built = case, built
        # Not `aoti_load_package`, which compiles test programs to find out what the processor can execute.
        self.loader = torch._C._aoti.AOTIModelPackageLoader(str(file), "model", False, 1, -1)
        self.inputs = list(map(torch.from_numpy, several(batch)))
        self.outputs: list[torch.Tensor] = []

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        """The device's name. Raises WorkerError where there is no compiler for the package's code."""
        if device != "cpu":
            raise WorkerError("packages are compiled for CPUs alone here")
        check_compiler("AOTInductor")
        return device

    def predict(self, images: Tensors) -> Tensors:
        with torch.inference_mode():
            return _on_host(self.loader.run(list(map(torch.from_numpy, several(images)))))

    def phases(self) -> Phases:
        run, inputs, guard = self.loader.run, self.inputs, torch.inference_mode

        def forward() -> None:
            with guard():
                self.outputs = run(inputs)

        return {"forward": forward}

    def result(self) -> Tensors:
        return _on_host(self.outputs)

    def ran(self) -> Ran:
        """The device and type of the output itself, and what the package was compiled for."""
        output = self.outputs[0]
        return Ran(
            device=output.device.type,
            device_name=devices.name(output.device),
            threads=torch.get_num_threads(),
            precision=devices.format_of(output.dtype),
            torch_in_process=True,
            facts={
                "torch": torch.__version__,
                "instructions": self.loader.get_metadata().get("AOTI_CPU_ISA"),
                "freezing": split(self.case.runtime)[1] == "freezing",
                "package_bytes": self.built.package_bytes,
                **{f"{stage}_s": seconds for stage, seconds in self.built.seconds.items()},
            },
        )


def _on_host(outputs: list[torch.Tensor]) -> Tensors:
    arrays = tuple(map(devices.to_host, outputs))
    return arrays if len(arrays) > 1 else arrays[0]
