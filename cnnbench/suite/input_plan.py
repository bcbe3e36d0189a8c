"""What a suite wants to know of the way from stored images to a batch that a network takes."""

from typing import Annotated

from pydantic import AfterValidator, Field

from cnnbench.suite.case import MAX_BATCH, Frozen
from cnnbench.suite.transforms import check_transform

MAX_WORKERS = 64


def _each_once(workers: list[int]) -> list[int]:
    if len(set(workers)) < len(workers):
        raise ValueError(f"expected each number of workers once; got {workers}")
    return workers


class InputPlan(Frozen):
    """A data set, the transforms of its images, and with how many processes they are made into batches."""

    data: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="a data set as `cnnbench train --data` takes it: a folder, digits or shapes"
    )
    transforms: Annotated[list[Annotated[str, AfterValidator(check_transform)]], Field(max_length=50)] = Field(
        [], description="calls of torchvision.transforms.v2, such as RandomCrop(32, padding=4)"
    )
    workers: Annotated[
        list[Annotated[int, Field(strict=True, ge=0, le=MAX_WORKERS)]],
        Field(min_length=1, max_length=10),
        AfterValidator(_each_once),
    ] = Field([0, 1, 2], description="processes that make batches; 0 is the one that trains")
    batch: Annotated[int, Field(strict=True, ge=1, le=MAX_BATCH)] = Field(8, description="images in a batch")
