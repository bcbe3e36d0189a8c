"""A study: networks that differ in one thing, trained alike, and claims that are tested on them."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationError, model_validator

from cnnbench.errors import SuiteError, first_fault
from cnnbench.networks import registry
from cnnbench.networks.trainable import ALL
from cnnbench.suite.case import Frozen, ModelSpec, Trainable
from cnnbench.suite.parse import parse_image_size
from cnnbench.suite.recipe import Positive, Rate
from cnnbench.suite.transforms import check_transform
from cnnbench.suite.yaml_lines import read_yaml

What = Literal["shift", "rotation", "scale", "noise", "blur", "fgsm", "pgd"]
"""How test images may be changed."""
_WHATS = "|".join(get_args(What))
_MEASURE = re.compile(
    rf"parameters|gradient|accuracy|(?P<of>accuracy|consistency) under (?P<what>{_WHATS}) (?P<amount>-?\d+(\.\d+)?)"
)
FORMS = f"parameters, gradient, accuracy, or accuracy or consistency under {_WHATS.replace('|', ', ')} AMOUNT"


class Measure(Frozen):
    """A number that each training run has."""

    of: Literal["parameters", "gradient", "accuracy", "consistency"]
    what: What | None = None
    amount: float = 0.0

    @property
    def is_share(self) -> bool:
        """Whether it is a share of images."""
        return self.of in ("accuracy", "consistency")

    @property
    def text(self) -> str:
        """As a study's file has it."""
        return self.of if self.what is None else f"{self.of} under {self.what} {self.amount:g}"


def parse_measure(text: str) -> Measure:
    """Raises ValueError."""
    match = _MEASURE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {FORMS}; got {text!r}")
    parts = match.groupdict()
    if parts["of"] is None:
        return Measure.model_validate({"of": text})
    return Measure.model_validate({name: parts[name] for name in ("of", "what", "amount")})


def _measure(text: str) -> str:
    return parse_measure(text).text


MeasureText = Annotated[str, AfterValidator(_measure)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 .,-]*$", max_length=40)]


class Arm(Frozen):
    """A network and how it is trained, where that is not as the study says."""

    model: Annotated[str, AfterValidator(registry.check_name), Field(max_length=300)]
    image_size: str | int | None = None
    channels: Positive | None = None
    images: Positive | None = None
    epochs: Annotated[int, Field(strict=True, ge=0, le=10_000)] | None = None
    """0: it is not trained, and only its parameters are counted and its gradients looked at."""
    batch: Positive | None = None
    rate: Rate | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    transforms: list[Annotated[str, AfterValidator(check_transform)]] = []
    classes: Annotated[list[str], Field(min_length=2, max_length=1000)] | None = None
    """Only these of the data set's."""
    start: Name | None = None
    """An arm whose weights it starts from, with a new head."""
    trainable: Trainable = ALL
    line: Name | None = None
    """That it is a point of, in the chart of accuracy by the number of training images."""


class Claim(Frozen):
    """That one arm has more of something than another arm, or than a number."""

    about: Annotated[str, Field(min_length=1, max_length=40)] = "general"
    text: Annotated[str, Field(min_length=1, max_length=500)]
    more: MeasureText
    of: Name
    than: Name | float
    """An arm, or a number."""
    than_more: MeasureText | None = None
    """What of the other arm, where it is not the same."""


class Study(Frozen):
    """The content of a study's file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)]
    description: str = ""
    form: Literal["short", "full"] = "short"
    """Whether the file's `full` was put in."""
    data: Annotated[str, Field(min_length=1, max_length=1000)]
    runtime: Literal["eager", "ort"] = "ort"
    """That trains; every network is evaluated in both."""
    images: Positive
    epochs: Positive
    batch: Positive = 64
    image_size: str | int | None = None
    channels: Positive | None = None
    """Of the models that are not registered, where an arm does not say otherwise."""
    rate: Rate = 0.001
    """The learning rate of Adam."""
    warmup: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """Epochs in which the rate grows linearly up to its value."""
    seeds: Annotated[list[Annotated[int, Field(strict=True, ge=0, lt=2**31)]], Field(min_length=1, max_length=20)]
    under: dict[What, Annotated[list[float], Field(min_length=1, max_length=50)]] = {}
    """How test images are changed, and by how much."""
    tried_images: Positive = 500
    """Of the test images, that are changed."""
    arms: Annotated[dict[Name, Arm], Field(min_length=1, max_length=100)]
    claims: Annotated[list[Claim], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _check(self) -> "Study":
        for claim in self.claims:
            arms = [claim.of] if isinstance(claim.than, float) else [claim.of, claim.than]
            for arm in arms:
                if arm not in self.arms:
                    raise ValueError(f"claim {claim.text!r}: expected one of the arms; got {arm!r}")
            for text in filter(None, (claim.more, claim.than_more)):
                measure = parse_measure(text)
                if measure.what is not None and measure.amount not in self.under.get(measure.what, []):
                    raise ValueError(f"claim {claim.text!r}: expected an amount that stands in `under`; got {text!r}")
        for name, given in self.arms.items():
            if (start := given.start) is not None and (start not in self.arms or self.arms[start].start is not None):
                raise ValueError(f"arm {name!r}: expected `start` to be an arm that starts anew; got {start!r}")
        if self.under and self.data != "shapes":
            raise ValueError("`under` needs the data set shapes, whose images can be drawn again")
        return self

    def spec(self, arm: str, seed: int) -> ModelSpec:
        """The arm's model. Raises ShapeError."""
        of = self.arms[arm]
        is_own = registry.find(of.model) is None
        size, channels = of.image_size or (self.image_size if is_own else None), of.channels or self.channels
        return ModelSpec.checked(
            of.model,
            None if size is None else parse_image_size(size),
            len(of.classes) if of.classes else None,
            seed,
            channels=channels if is_own else None,
        )

    def is_changed(self, arm: str) -> bool:
        """Whether a claim asks for the arm's answers to changed images."""
        texts = [text for claim in self.claims for text in self._asked(claim, arm)]
        return any(parse_measure(text).what for text in texts)

    @staticmethod
    def _asked(claim: Claim, arm: str) -> list[str]:
        of = [claim.more] if claim.of == arm else []
        return of + ([claim.than_more or claim.more] if claim.than == arm else [])

    def has_gradients(self, arm: str) -> bool:
        """Whether a claim asks for the arm's gradients."""
        return any("gradient" in self._asked(claim, arm) for claim in self.claims)

    def settings(self, arm: str) -> dict[str, Any]:
        """All that a result of the arm depends on, beside the seed."""
        names = {"data", "runtime", "images", "epochs", "batch", "rate", "warmup", "image_size", "channels"}
        shared = self.model_dump(include=names, mode="json")
        of = self.arms[arm]
        own = of.model_dump(mode="json", exclude={"line"}, exclude_none=True)
        own |= {"start": self.settings(of.start)} if of.start else {}
        own |= {"gradients": True} if self.has_gradients(arm) else {}
        changed = {"under": self.under, "tried_images": self.tried_images} if self.is_changed(arm) else {}
        return {**shared, **own, **changed}


def load_study(path: Path, form: Literal["short", "full"] = "short") -> Study:
    """A study from a file, with what stands below its `full` in the place of the rest where that form is asked for.

    Arms and claims of `full` are added to the others. Raises SuiteError.
    """
    source = read_yaml(path)
    if not isinstance(source.data, dict) or not isinstance(source.data.get("full", {}), dict):
        raise SuiteError(f"{path}: expected a mapping with `arms`, `claims` and, for its full form, a mapping `full`")
    content = {name: value for name, value in source.data.items() if name != "full"}
    if form == "full":
        full = source.data.get("full", {})
        arms = {**(content.get("arms") or {}), **(full.get("arms") or {})}
        content |= {**full, "arms": arms, "claims": [*(content.get("claims") or []), *(full.get("claims") or [])]}
    try:
        return Study.model_validate(content | {"form": form})
    except ValidationError as error:
        where = tuple(error.errors()[0]["loc"])
        raise SuiteError(f"{source.place(where)}: {first_fault(error)}") from None
