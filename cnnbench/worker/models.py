"""A model's name to its torch module: ours, torchvision's, timm's, or the user's own."""

import dataclasses
import importlib
import inspect
import pkgutil
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cnnbench.errors import ModelError, unknown
from cnnbench.networks import registry
from cnnbench.records.record import ArtifactFacts
from cnnbench.suite.case import ModelSpec
from cnnbench.worker import detection
from cnnbench.worker.exported_program import load_program
from cnnbench.worker.hooks import running
from cnnbench.worker.origin import check_origin, look_here_too
from cnnbench.worker.reference import inputs as reference_inputs
from cnnbench.worker.signature import Inputs, Shape, find_inputs, flat, shapes_of, zeros

AUXILIARY_WEIGHT = 0.3
"""Of each auxiliary head's loss (Szegedy et al. 2014, section 5)."""
MAIN_OUTPUTS = ("out", "logits")
"""What a mapping calls the main one of its outputs."""
LOGIT_AXES = 2
OWN_LOSS = "cnnbench_loss"
"""The attribute of a module with the name of the user's loss, and the loss."""
LABEL_SMOOTHING = "cnnbench_label_smoothing"
"""The attribute of a module with the share of each label's probability that all classes share in cross-entropy."""
WITH_AUXILIARY_HEAD = ("fcn_", "deeplabv3_")
"""How the names of torchvision's segmentation networks begin that may have one."""


class Trial(NamedTuple):
    """What one run of a model showed."""

    outputs: list[Shape]
    """Of each tensor that it puts out, without the batch."""
    writes_input: bool
    """Whether it changes the tensors that it is given; it is then given copies."""

    @property
    def classes(self) -> int:
        """The size of its first output's first axis."""
        return self.outputs[0][0] if self.outputs[0] else 1


def build(spec: ModelSpec) -> tuple[nn.Module, Inputs]:
    """The module, with random weights from the spec's seed, and what it takes: the (C, H, W) of its images.

    Raises ModelError for a name that does not exist, for code that raises or gives no module, and where it is not
    certain what a user's module takes.
    """
    module, inputs, maker = _made_with_loss(spec)
    return module, find_inputs(module, spec, maker) if inputs is None else inputs


def rebuild(spec: ModelSpec, facts: ArtifactFacts) -> nn.Module:
    """The module that an artifact was made of, ready for its weights. Raises ModelError."""
    module = _made_with_loss(spec)[0]
    if facts.writes_input:
        give_copies(module)
    if any(isinstance(child, nn.modules.lazy.LazyModuleMixin) for child in module.modules()):
        with torch.no_grad():
            module.eval()(*zeros(facts.inputs or facts.input_shape))
    return module


def give_copies(module: nn.Module) -> None:
    """Have the module run on copies of its inputs from now on, because it writes into them."""
    module.register_forward_pre_hook(lambda _, inputs: tuple(x.clone() for x in inputs))


def _made_with_loss(spec: ModelSpec) -> tuple[nn.Module, Inputs | None, Any]:
    """The module of `_made` with the user's loss, if there is one. Raises ModelError for another revision's code."""
    module, inputs, maker = _made(spec)
    if spec.loss:
        function = _named(spec.loss, "loss")
        if isinstance(function, nn.Module) and next(function.parameters(), None) is not None:
            raise ModelError(f"loss {spec.loss!r} has parameters of its own; expected those in the model alone")
        module.__dict__[OWN_LOSS] = (spec.loss, function)  # no child, if it is a module too
    if spec.depends_on_code:
        check_origin(spec.model)
    return module, inputs, maker


def _made(spec: ModelSpec) -> tuple[nn.Module, Inputs | None, Any]:
    """The module, its inputs where they are known beforehand, and the user's callable that made it."""
    torch.manual_seed(spec.seed)
    architecture = registry.find(spec.model)
    if architecture and not architecture.from_torchvision:
        from cnnbench.worker.builtin_models import NETWORKS

        image = (architecture.image[0], *architecture.full_size(spec.image_size))
        return NETWORKS[spec.model](image, spec.classes or architecture.classes), image, None
    if spec.is_users_own:
        module, maker = _users_own(spec)
        return module, None, maker
    if spec.is_program_file:
        return *load_program(spec), None
    module, image = _timm(spec) if spec.model.startswith("timm/") else _torchvision(spec)
    return module, image, None


def loss(module: nn.Module, output: Any, labels: Tensor) -> Tensor:
    """The user's own loss of what the module puts out in training, or else cross-entropy of logits (N, classes).

    Labels are integers (N), or (N, ...) of each pixel. Auxiliary heads, where a model has them, are added at 0.3 each.
    Raises ModelError for a single logit, whose cross-entropy is always zero, for outputs that are no logits, and for a
    loss of one's own that raises or is no scalar.
    """
    if OWN_LOSS in module.__dict__:
        name, function = module.__dict__[OWN_LOSS]
        return _own_loss(name, function, output, labels)
    smoothing = module.__dict__.get(LABEL_SMOOTHING, 0.0)
    main, *auxiliary = (_cross_entropy(head, labels, smoothing) for head in heads(output))
    return torch.stack([main, *(AUXILIARY_WEIGHT * extra for extra in auxiliary)]).sum()


def _own_loss(name: str, function: Callable[[Any, Tensor], Any], output: Any, labels: Tensor) -> Tensor:
    try:
        found = function(output, labels)
    except Exception as error:
        raise ModelError(f"loss {name!r} raises, called as loss(outputs, labels): {_said(error)}") from error
    if not isinstance(found, Tensor) or found.ndim or not found.is_floating_point():
        got = f"a tensor of {tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(f"loss {name!r}: expected a scalar tensor of floats, such as a mean; got {got}")
    return found


def heads(output: Any) -> list[Tensor]:
    """The tensors that the module puts out in training, the main one first.

    Of a mapping or a dataclass that is the one called `out` or `logits`, else its first. Raises ModelError where there
    is none.
    """
    tensors = [head for head in _leaves(output) if isinstance(head, Tensor)]
    if not tensors:
        raise ModelError(f"the model gives no tensor in training: expected logits, or several; got {_kind(output)}")
    return tensors


def _leaves(output: Any) -> list[Any]:
    """All that a nest of tuples, lists, mappings and dataclasses holds, the main output of a mapping first."""
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, Mapping):
        main = next((name for name in MAIN_OUTPUTS if output.get(name) is not None), None)
        output = [output[name] for name in sorted(output, key=lambda name: name != main)]
    return [leaf for each in output for leaf in _leaves(each)] if isinstance(output, (tuple, list)) else [output]


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    if logits.ndim < LOGIT_AXES or not logits.is_floating_point():
        raise ModelError(
            f"in training the model gives a tensor of shape {tuple(logits.shape)} and type {logits.dtype}; expected "
            "logits (N, classes), of the main head and of auxiliary ones"
        )
    if logits.shape[2:] != labels.shape[1:]:
        raise ModelError(
            f"in training the model gives a tensor of shape {tuple(logits.shape)} for labels of shape "
            f"{tuple(labels.shape)}; expected logits (N, classes), or of each label's place; for other outputs give a "
            "loss of your own (`loss: package.module:callable`)"
        )
    if logits.shape[1] == 1:
        raise ModelError(
            "the model has a single output: its cross-entropy is always zero, so that nothing is learned; give it one "
            "output for each class"
        )
    return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def _kind(output: Any) -> str:
    """What a model gave, in words."""
    names = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
    return f"{type(output).__name__}{names}"


def try_out(module: nn.Module, inputs: Inputs, spec: ModelSpec) -> Trial:
    """Run one image. A module that writes into it is given copies from then on.

    Raises ModelError, naming the module that raised, and for outputs that are no tensors with the batch first.
    """
    module.eval()
    given = reference_inputs.draw(1, inputs, spec.seed)
    before = [x.clone() for x in given]
    with running(module) as stack, torch.no_grad():
        try:
            made = module(*given)
        except Exception as error:
            layer = f" in layer {stack[-1]!r}" if stack and stack[-1] else ""
            what = ", ".join("x".join(map(str, shape)) for shape in shapes_of(inputs))
            raise ModelError(
                f"model {spec.model!r} cannot take one image of {what}{layer}: {_said(error)}; if its images are of "
                "another shape, set image_size, channels or inputs; each parameter of `forward` is given one tensor of "
                "floats"
            ) from None
    outputs = flat(made)
    if not outputs or not all(y.ndim and y.shape[0] == 1 for y in outputs):
        got = " and ".join(str(tuple(y.shape)) for y in outputs) or type(made).__name__
        raise ModelError(f"model {spec.model!r}: expected tensors of shape (1, ...) for one image; got {got}")
    writes = not all(map(torch.equal, given, before))
    if writes:
        give_copies(module)
    return Trial([tuple(y.shape[1:]) for y in outputs], writes)


def _torchvision(spec: ModelSpec) -> tuple[nn.Module, Shape]:
    import torchvision
    from torchvision.models import get_model, get_model_weights, list_models

    name, _, heads = spec.model.removeprefix("torchvision/").partition("/")
    kinds = torchvision.models, torchvision.models.segmentation, torchvision.models.detection
    names, dense, detectors = (list_models(module=each) for each in kinds)
    if name not in (*names, *dense, *detectors):
        raise ModelError(
            unknown("torchvision classifier, segmentation or detection network", name, [*names, *dense, *detectors])
        )
    if name in detectors:
        return detection.build(name, spec, with_post_processing=not heads)
    if heads:
        raise ModelError(f"model {spec.model!r}: expected a detection network before /heads; got {name!r}")
    usual = get_model_weights(name).DEFAULT.transforms.keywords
    size = spec.image_size or (usual["resize_size" if name in dense else "crop_size"],) * 2
    options: dict[str, Any] = {} if spec.classes is None else {"num_classes": spec.classes}
    if name in dense:
        options["weights_backbone"] = None
    if name.startswith(WITH_AUXILIARY_HEAD):
        options["aux_loss"] = True  # as its published weights have it
    if spec.image_size and name.startswith("vit_"):  # transformers are built for one size
        options["image_size"] = size[0]
    if spec.image_size and name.startswith("maxvit_"):
        options["input_size"] = size
    # GoogLeNet and Inception announce that their slow default initialisation will change.
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        try:
            return get_model(name, weights=None, **options), (3, *size)
        except Exception as error:
            raise ModelError(f"torchvision's {name} cannot be built with {options}: {_said(error)}") from None


def _timm(spec: ModelSpec) -> tuple[nn.Module, Shape]:
    timm: Any = importlib.import_module("timm")  # optional, so unknown to type checkers
    name = spec.model.removeprefix("timm/")
    if not timm.is_model(name):
        raise ModelError(unknown("timm model", name, timm.list_models()))
    options = {} if spec.classes is None else {"num_classes": spec.classes}
    module = timm.create_model(name, pretrained=False, **options)
    channels, height, width = module.default_cfg["input_size"]
    return module, (channels, *(spec.image_size or (height, width)))


def _users_own(spec: ModelSpec) -> tuple[nn.Module, Any]:
    """The module, and the callable that made it."""
    name, made = f"model {spec.model!r}", _named(spec.model, "model")
    options = _understood(made, spec)
    try:
        module = made(**options)
    except Exception as error:
        raise ModelError(f"{name} raises when it is built: {_said(error)}") from None
    if not isinstance(module, nn.Module):
        raise ModelError(f"{name}: expected a torch.nn.Module; got {type(module).__name__}")
    if isinstance(module, nn.DataParallel):  # on one device it is the module that it holds
        module = module.module
    if type(module).__name__ == "OptimizedModule":  # what `torch.compile` made, which a runtime does itself
        module = getattr(module, "_orig_mod", module)
    if any(each.is_meta for each in module.parameters()):
        raise ModelError(f"{name}: its parameters are on the device meta, without values; expected them on the CPU")
    try:
        module.eval()
    except NotImplementedError:
        raise ModelError(
            f"{name} gives the module of a program of torch.export, which has one mode; write the program by "
            "torch.export.save and give that file, as `model: path/to/program.pt2`"
        ) from None
    return module.float().cpu(), made


def _named(name: str, what: str) -> Any:
    """The user's callable `package.module:callable`. Raises ModelError."""
    look_here_too()
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:
        where = f"where `import {name.partition(':')[0]}` works"
        raise ModelError(f"{what} {name!r} cannot be imported: {_said(error)}; run cnnbench {where}") from None
    if not callable(found):
        expected = "a callable that gives a torch module" if what == "model" else "a function of outputs and labels"
        raise ModelError(f"{what} {name!r}: expected {expected}; got {type(found).__name__}")
    return found


def _understood(callable_: Any, spec: ModelSpec) -> dict[str, Any]:
    """The settings that the user's callable has parameters for: `num_classes` or `classes`, and `image_size`."""
    try:
        parameters = inspect.signature(callable_).parameters
    except (TypeError, ValueError):
        return {}
    given = {"num_classes": spec.classes, "classes": spec.classes, "image_size": spec.image_size}
    options = {name: value for name, value in given.items() if value is not None and name in parameters}
    if spec.classes is not None and not options.keys() & {"num_classes", "classes"}:
        raise ModelError(
            f"model {spec.model!r}: `classes` is set, but its callable has no parameter `num_classes` or `classes`"
        )
    return options


def _said(error: Exception) -> str:
    """The error in one line, with the place in the user's code where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    text = " ".join(str(error).split()) or "no message"
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text[:300]}{place}"
