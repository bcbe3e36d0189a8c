"""What vendors say that their GPUs can do: a second ceiling, beside the measured ones, and never in their place.

Dense figures, without structured sparsity, at the boost clock; mixed precision with float32 accumulation. A GPU is
known by the very name that its driver gives; of one that is not in the table nothing is known.
"""

from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Datasheet:
    """Peaks of one GPU, in FLOP/s and bytes/s; None where its vendor names none, or it cannot."""

    names: tuple[str, ...]
    """As drivers give them, without `NVIDIA ` or `Tesla ` before."""
    fp32: float
    bf16: float | None
    fp16: float | None
    bytes_per_s: float
    source: str

    def flops_per_s(self, precision: str) -> float | None:
        """The dense peak. That of float32 is without TF32, which cnnbench switches off."""
        return {"fp32": self.fp32, "bf16": self.bf16, "fp16": self.fp16}.get(precision)


def _gpu(names: str, fp32: float, bf16: float | None, fp16: float | None, memory: float, source: str) -> Datasheet:
    """From TFLOP/s and GB/s, as datasheets print them; names separated by commas."""
    tera = [None if value is None else value * TERA for value in (bf16, fp16)]
    return Datasheet(tuple(names.split(", ")), fp32 * TERA, tera[0], tera[1], memory * GIGA, source)


_P100 = "NVIDIA, Tesla P100 GPU accelerator, datasheet, 2016"
_V100 = "NVIDIA, V100 Tensor Core GPU, datasheet, 2020"
_A100 = "NVIDIA, A100 Tensor Core GPU, datasheet, 2021"
_H100 = "NVIDIA, H100 Tensor Core GPU, datasheet, 2023; half of its figures with sparsity"
_H200 = "NVIDIA, H200 Tensor Core GPU, datasheet, 2024; half of its figures with sparsity"
_GA102 = "NVIDIA, Ampere GA102 GPU architecture, whitepaper, 2021, appendix A"
_ADA = "NVIDIA, Ada GPU architecture, whitepaper, 2022, appendix A"
_RTX50 = "NVIDIA, RTX Blackwell GPU architecture, whitepaper, 2025, appendix A"

#        names as drivers give them                      fp32    bf16    fp16    GB/s   source
DATASHEETS = (
    _gpu("P100-SXM2-16GB", 10.6, None, 21.2, 732, _P100),
    _gpu("P100-PCIE-16GB", 9.3, None, 18.7, 732, _P100),
    _gpu("V100-SXM2-16GB, V100-SXM2-32GB", 15.7, None, 125, 900, _V100),
    _gpu("V100-PCIE-16GB, V100-PCIE-32GB", 14, None, 112, 900, _V100),
    _gpu("V100S-PCIE-32GB", 16.4, None, 130, 1134, _V100),
    _gpu("T4", 8.1, None, 65, 320, "NVIDIA, Turing GPU architecture, whitepaper, 2018; T4 product brief, 2019"),
    _gpu("A10", 31.2, 125, 125, 600, "NVIDIA, A10 Tensor Core GPU, datasheet, 2021"),
    _gpu("A30", 10.3, 165, 165, 933, "NVIDIA, A30 Tensor Core GPU, datasheet, 2021"),
    _gpu("A40", 37.4, 149.7, 149.7, 696, "NVIDIA, A40 GPU, datasheet, 2021"),
    _gpu("A100-SXM4-40GB, A100-PCIE-40GB", 19.5, 312, 312, 1555, _A100),
    _gpu("A100 80GB PCIe", 19.5, 312, 312, 1935, _A100),
    _gpu("A100-SXM4-80GB", 19.5, 312, 312, 2039, _A100),
    _gpu("L4", 30.3, 121, 121, 300, "NVIDIA, L4 Tensor Core GPU, datasheet, 2023; half of its figures with sparsity"),
    _gpu("L40", 90.5, 181.05, 181.05, 864, "NVIDIA, L40 GPU, datasheet, 2023"),
    _gpu("L40S", 91.6, 362.05, 362.05, 864, "NVIDIA, L40S GPU, datasheet, 2023"),
    _gpu("H100 80GB HBM3", 67, 989.5, 989.5, 3350, _H100),
    _gpu("H100 PCIe", 51, 756.5, 756.5, 2000, _H100),
    _gpu("H100 NVL", 60, 835.5, 835.5, 3900, _H100),
    _gpu("H200", 67, 989.5, 989.5, 4800, _H200),
    _gpu("H200 NVL", 60, 835.5, 835.5, 4800, _H200),
    _gpu("B200", 80, 2250, 2250, 8000, "NVIDIA, Blackwell architecture, technical brief, 2024, HGX B200"),
    _gpu("RTX A6000", 38.7, 154.8, 154.8, 768, _GA102),
    _gpu("GeForce RTX 3080", 29.8, 59.5, 59.5, 760, _GA102),
    _gpu("GeForce RTX 3090", 35.6, 71, 71, 936, _GA102),
    _gpu("GeForce RTX 4080", 48.7, 97.5, 97.5, 717, _ADA),
    _gpu("GeForce RTX 4090", 82.6, 165.2, 165.2, 1008, _ADA),
    _gpu("GeForce RTX 5090", 104.8, 209.5, 209.5, 1792, _RTX50),
)


def datasheet_of(device_name: str) -> Datasheet | None:
    """The datasheet of the GPU that its driver calls so; None for any other name, however similar."""
    name = device_name.removeprefix("NVIDIA ").removeprefix("Tesla ")
    return next((each for each in DATASHEETS if name in each.names), None)
