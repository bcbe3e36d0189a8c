"""AOTInductor: a package that was compiled before the run, loaded and called without tracing or compiling anything."""

from pathlib import Path

import torch

from cnnbench.errors import WorkerError
from cnnbench.records.artifact import package_name, read_package
from cnnbench.records.record import ArtifactFacts, Memory, Ran
from cnnbench.suite.case import Case, Device
from cnnbench.suite.runtimes import split
from cnnbench.worker.reference.parity import Tensors
from cnnbench.worker.runtimes import device as devices
from cnnbench.worker.runtimes.base import Runtime
from cnnbench.worker.runtimes.compiler import check_compiler
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
        self.device = devices.use(case.device)
        self.inputs = devices.placed(batch, self.device)
        self.outputs: list[torch.Tensor] = []

    @classmethod
    def probe(cls, device: Device, variant: str = "") -> str:
        """The device's name. Raises WorkerError where there is no compiler for the package's code."""
        check_compiler("AOTInductor")
        return devices.name(torch.ones(1, device=device).device)

    def predict(self, images: Tensors) -> Tensors:
        with torch.inference_mode():
            return _on_host(self.loader.run(devices.placed(images, self.device)))

    def phases(self) -> Phases:
        run, inputs, device = self.loader.run, self.inputs, self.device
        guard, synchronize = torch.inference_mode, devices.synchronize

        def forward() -> None:
            with guard():
                self.outputs = run(inputs)
            synchronize(device)

        return {"forward": forward}

    def result(self) -> Tensors:
        return _on_host(self.outputs)

    def ran(self) -> Ran:
        """The device and type of the output itself, and what the package was compiled for."""
        output, tf32 = self.outputs[0], devices.tf32(self.device)
        return Ran(
            device=output.device.type,
            device_name=devices.name(output.device),
            threads=torch.get_num_threads(),
            precision=devices.format_of(output.dtype),
            torch_in_process=True,
            tf32=None if tf32 is None else bool(tf32),
            facts={
                "torch": torch.__version__,
                "instructions": self.loader.get_metadata().get("AOTI_CPU_ISA"),
                "freezing": split(self.case.runtime)[1] == "freezing",
                "package_bytes": self.built.package_bytes,
                **{f"{stage}_s": seconds for stage, seconds in self.built.seconds.items()},
            },
        )

    def memory(self, imported_bytes: int, loaded_bytes: int) -> Memory:
        on_host = super().memory(imported_bytes, loaded_bytes)
        return on_host.model_copy(update=devices.memory(self.device))


def _on_host(outputs: list[torch.Tensor]) -> Tensors:
    arrays = tuple(map(devices.to_host, outputs))
    return arrays if len(arrays) > 1 else arrays[0]
