"""Weights of a model from a file, or those that torchvision and timm publish, as far as they lie on this machine."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cnnbench.errors import ModelError
from cnnbench.networks import registry
from cnnbench.records.trained import weights_file
from cnnbench.suite.case import PUBLISHED, ModelSpec
from cnnbench.suite.recipe import is_trained

INSIDE = ("state_dict", "model_state_dict", "model", "module")
"""Where checkpoints keep the state dict, beside an optimizer's and others."""
MAX_NAMES = 3


def load_weights(module: nn.Module, spec: ModelSpec, heads: Sequence[str] = ()) -> list[str]:
    """Load the spec's weights into the module, in evaluation mode; gives the tensors that it has no weights for.

    Where the spec says how many classes there are, these may be the tensors of the module's heads, which stay as they
    are. Nothing is downloaded, and nothing but tensors is read. Raises ModelError for a file that is not there or is
    none, and for weights of another network.
    """
    assert spec.weights is not None
    file = _published(spec) if spec.weights == PUBLISHED else weights_file(spec)
    state, own = _read(file, spec), module.state_dict()
    of_heads = {name for name in own if name.rpartition(".")[0] in heads} if spec.classes else set()
    anew = [name for name in own if name in of_heads and (name not in state or state[name].shape != own[name].shape)]
    state = {**state, **{name: own[name] for name in anew}}
    faults = {
        "lacks": [name for name in own if name not in state],
        "has, beside the model's,": [name for name in state if name not in own],
        "has of another shape": [name for name in own if name in state and state[name].shape != own[name].shape],
    }
    for what, names in faults.items():
        if names:
            shown = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if names[MAX_NAMES:] else "")
            hint = "" if spec.classes else "; for another number of classes, give `classes`"
            raise ModelError(f"model {spec.model!r}: expected its weights in {file}; the file {what} {shown}{hint}")
    module.load_state_dict(state)
    module.eval()
    return anew


def _read(file: Path, spec: ModelSpec) -> Mapping[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        if is_trained(spec.weights):
            raise ModelError(
                f"model {spec.model!r}: weights: there is no {spec.weights} in the cache; `cnnbench train-suite SUITE` "
                "makes those of a suite"
            ) from None
        raise ModelError(f"model {spec.model!r}: weights: there is no file {file}") from None
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {spec.model!r}: weights: expected a safetensors file or a state dict in {file}, of tensors alone; "
            f"got another: {words}"
        ) from None
    for inside in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(inside), Mapping):
            found = found[inside]
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        raise ModelError(f"model {spec.model!r}: weights: expected a state dict in {file}; got {type(found).__name__}")
    return found


def _published(spec: ModelSpec) -> Path:
    """The file of the weights that the model's package publishes. Raises ModelError with what to download."""
    url = _url(spec)
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not file.exists():
        raise ModelError(f"model {spec.model!r}: its weights are not on this machine: download {url} to {file}")
    return file


def _url(spec: ModelSpec) -> str:
    architecture, name = registry.find(spec.model), spec.model.rpartition("/")[2]
    if spec.model.startswith("timm/"):
        timm: Any = importlib.import_module("timm")
        url = timm.get_pretrained_cfg(name).url
        if url:
            return str(url)
    elif spec.model.startswith("torchvision/") or (architecture and architecture.from_torchvision):
        from torchvision.models import get_model_weights

        return str(get_model_weights(name).DEFAULT.url)
    raise ModelError(f"model {spec.model!r}: nobody publishes its weights in a file; give one, such as `weights: FILE`")
