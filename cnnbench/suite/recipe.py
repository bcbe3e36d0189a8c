"""How the models of a suite are trained before they are measured, and the name of the weights that come of it."""

import json
import re
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import Field

from cnnbench.suite.case import Frozen, ModelSpec

TRAINED = "trained"
"""What a suite calls weights that `cnnbench train-suite` makes; in ids and names it is followed by a digest."""
_NAME = re.compile(rf"{TRAINED}-[0-9a-f]{{12}}")

Positive = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Rate = Annotated[float, Field(gt=0, le=1000)]


class Recipe(Frozen):
    """A training run in PyTorch with Adam."""

    data: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None, description="data set, as --data takes it; the suite's `data` if absent"
    )
    images: Positive | None = Field(None, description="at most so many training images, balanced by class")
    epochs: Positive = Field(3, description="passes over the training images")
    batch: Annotated[int, Field(strict=True, ge=2, le=1_000_000)] = Field(64, description="images per step")
    rate: Rate = Field(0.001, description="learning rate of Adam")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="of the learning rate")
    warmup: Annotated[float, Field(ge=0, le=1000)] = Field(0.0, description="epochs in which the rate grows linearly")


class Training(Frozen):
    """A model that is trained for a suite."""

    spec: ModelSpec
    """Without weights: its seed is that of the first ones and of the images' order."""
    recipe: Recipe
    """With its data set."""

    @property
    def weights(self) -> str:
        """The name of the weights: `trained-` and a digest of model and recipe."""
        content = [self.spec.model_dump(mode="json"), self.recipe.model_dump(mode="json")]
        return f"{TRAINED}-{sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"


def is_trained(weights: str | None) -> bool:
    """Whether that is the name of weights in the cache, not of a file."""
    return weights is not None and _NAME.fullmatch(weights) is not None
