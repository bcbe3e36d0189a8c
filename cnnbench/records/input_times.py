"""How fast stored images become batches: raw values, and how they are kept in a run's folder."""

import base64
import binascii
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cnnbench.records import files
from cnnbench.records.bounds import Count, Moment, PositiveCount, Recorded, Repetitions
from cnnbench.records.json_object import read_model
from cnnbench.suite.case import Device, Size
from cnnbench.suite.input_plan import InputPlan

INPUT = "input.json"
"""In a run's folder."""
MAX_SIDE = 96
"""Of a draw that is kept, in pixels; larger ones are shrunk."""
CHANNELS = 3


class Stage(Recorded):
    """One stage of an image's way into a batch, in the process that trains."""

    name: str
    seconds: Repetitions
    """Of one image, in each block."""


class Supply(Recorded):
    """The whole way, with so many processes beside the one that takes the batches."""

    workers: Count
    seconds: Repetitions
    """Of one image, in each block."""


class Draw(Recorded):
    """What the transforms have made of an image."""

    height: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    width: Annotated[int, Field(ge=1, le=MAX_SIDE)]
    pixels: str
    """Red, green and blue of each, in base64."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.content) != self.height * self.width * CHANNELS:
            raise ValueError(f"expected the pixels of {self.height}x{self.width}; got {len(self.content)} bytes")
        return self

    @property
    def content(self) -> bytes:
        """The pixels, row by row."""
        try:
            return base64.b64decode(self.pixels, validate=True)
        except binascii.Error:
            return b""


class InputTimes(Recorded):
    """All that was measured of one suite's input."""

    schema_version: Literal[1] = 1
    plan: InputPlan
    device: Device
    """That batches are copied to."""
    images: PositiveCount | None = None
    """In the data set, for training."""
    shape: tuple[Size, ...] = ()
    """(C, H, W) behind the transforms."""
    started: Moment
    stages: list[Stage] = []
    """In order."""
    supplies: list[Supply] = []
    draws: Annotated[list[Draw], Field(max_length=8)] = []
    """Of the first image."""
    failure: str = ""
    """Why it could not be measured."""


def read_input(folder: Path) -> InputTimes | None:
    """What a run's folder has; None where nothing was measured. Raises RunFolderError for what is none of ours."""
    return read_model(folder / INPUT, InputTimes, "delete the file, and resume the run to measure it again")


def write_input(folder: Path, times: InputTimes) -> None:
    """Write it down. Raises OSError."""
    files.write(folder / INPUT, times.model_dump_json())
