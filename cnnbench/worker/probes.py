"""Which devices really work, found out by running something on them."""

from cnnbench.case import Device, RuntimeName
from cnnbench.messages import Probed

LONGEST_REASON = 200


def probe(runtime: RuntimeName, device: Device) -> Probed:
    """Run an addition on the device through the runtime. A provider's or a build's own list proves nothing."""
    try:
        name = _try_ort(device) if runtime == "ort" else _try_torch(device)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return Probed(works=False, reason=reason[:LONGEST_REASON])
    return Probed(works=True, name=name)


def _try_torch(device: Device) -> str:
    import torch

    ones = torch.ones(1, device=device)  # raises torch's own reason where there is no such device
    assert (ones + ones).item() == 2
    return torch.cuda.get_device_name(0) if device == "cuda" else "cpu"


def _try_ort(device: Device) -> str:
    from cnnbench.worker.runtimes.ort import run_identity

    run_identity(device)
    return device
