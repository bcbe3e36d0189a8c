"""Data sets that `--data` can name: folders of the user's, in which nothing is downloaded, and generated ones."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from cnnbench.errors import InputError
from cnnbench.suite.case import NOISE, Frozen

Kind: TypeAlias = Literal["idx", "cifar10", "cifar100", "images", "digits", "shapes", "signals", "words"]
NAMED: tuple[Kind, ...] = ("digits", "shapes", "signals", "words")
"""Those that need no folder."""
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IDX_PLACES = ("", "raw", "FashionMNIST/raw", "MNIST/raw")
"""Folders below the user's in which these files may lie; torchvision puts them into the last two."""
CIFAR: dict[Kind, str] = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""The folders that torchvision puts CIFAR's files into."""
RESIZED = "@resized"
"""Behind the name of a data set: its images are resized to those of a model."""
HINT = (
    "give shapes, signals or words, which are generated, digits, which scikit-learn brings, or a folder with MNIST, "
    "Fashion-MNIST, CIFAR-10, CIFAR-100 or a folder of images for each class; on Debian and Ubuntu `apt install "
    "dataset-fashion-mnist` puts Fashion-MNIST into /usr/share/datasets/fashion-mnist, and "
    "torchvision.datasets.FashionMNIST(FOLDER, download=True) into FOLDER, as MNIST, CIFAR10 and CIFAR100 do theirs"
)


class Scaling(Frozen):
    """How images are normalised: by these of each channel, in the units in which they are stored."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


Scale: TypeAlias = Literal["0..1", "-1..1", "imagenet"]
SCALES: dict[Scale, Scaling] = {
    "0..1": Scaling(mean=(0,), deviation=(255,)),
    "-1..1": Scaling(mean=(127.5,), deviation=(127.5,)),
    # Means of 0.485, 0.456, 0.406 and deviations of 0.229, 0.224, 0.225 (torchvision.transforms._presets).
    "imagenet": Scaling(mean=(123.675, 116.28, 103.53), deviation=(58.395, 57.12, 57.375)),
}
"""Behind the name of a data set and `@`: how a model expects its images, from 0 to 255, to be normalised."""


class DataSet(Frozen):
    """A data set, and how much of it is taken for training."""

    kind: Kind
    folder: str = ""
    """Where its files lie; empty for one of a name alone."""
    images: Annotated[int, Field(gt=0)] | None = None
    """At most so many of the training images, balanced by class; None for all."""
    seed: int = 0
    """Of the choice."""
    classes: tuple[str, ...] | None = None
    """Only images of these classes, by their names and numbered in this order; None for all."""
    resize: bool = False
    """Whether images are resized to the model's, with their proportions, and cropped at the centre."""
    scale: Scale | None = None
    """How images are normalised; None is by the mean and deviation of all training images."""

    @property
    def name(self) -> str:
        """As the user gives it."""
        return (self.folder or self.kind) + RESIZED * self.resize + (f"@{self.scale}" if self.scale else "")


def parts_of(source: str) -> tuple[str, bool, Scale | None]:
    """A data set's name or folder, whether its images are resized, and how they are normalised if that is named."""
    scale = next((each for each in SCALES if source.endswith(f"@{each}")), None)
    name = source.removesuffix(f"@{scale}" if scale else "")
    return name.removesuffix(RESIZED), name.endswith(RESIZED), scale


def find(source: str, images: int | None = None, seed: int = 0) -> DataSet:
    """The data set that a name or a folder stands for, with `@resized` behind it where its images are resized, and
    `@-1..1` or the like where they are normalised so.

    Raises InputError where there is none, or more than one.
    """
    name, resize, scale = parts_of(source)
    if name in NAMED:
        if name == "digits" and find_spec("sklearn") is None:
            raise InputError("digits: needs scikit-learn, which is not installed here: pip install scikit-learn")
        return DataSet(kind=name, images=images, seed=seed, resize=resize, scale=scale)
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(f"{source}: expected a data set; there is no such folder; {HINT}")
    found = list(_in(folder))
    if not found:
        raise InputError(f"{source}: expected a data set; the folder has none; {HINT}")
    if len(found) > 1:
        raise InputError(f"{source}: expected one data set; give {' or '.join(str(place) for _, place in found)}")
    kind, place = found[0]
    return DataSet(kind=kind, folder=str(place), images=images, seed=seed, resize=resize, scale=scale)


@cache
def fingerprint(source: str) -> str:
    """A digest of the files of a data set, by their names, sizes and times; empty for one that has none.

    So is that of one that is not there, which is told where it is read.
    """
    folder = ""
    if source != NOISE:
        with suppress(InputError):
            folder = find(source).folder
    if not folder:
        return ""
    about = (f"{each.relative_to(folder)} {each.stat().st_size} {each.stat().st_mtime_ns}" for each in _files(folder))
    return sha256("\n".join(about).encode()).hexdigest()[:16]


def _files(folder: str) -> list[Path]:
    return sorted(each for each in Path(folder).rglob("*") if each.is_file())


def idx_files(folder: Path) -> dict[str, Path]:
    """The four files of MNIST's format by name, as far as they are there, compressed by gzip or not."""
    candidates = {part: (folder / part, folder / f"{part}.gz") for part in IDX}
    return {part: file for part, files in candidates.items() for file in files[::-1] if file.is_file()}


def _in(folder: Path) -> Iterator[tuple[Kind, Path]]:
    """What a folder holds, and where. Raises InputError for a data set that lacks a file."""
    places = {place: idx_files(folder / place) for place in IDX_PLACES}
    known: list[tuple[Kind, Path]] = [
        ("idx", folder / place) for place, found in places.items() if len(found) == len(IDX)
    ]
    for kind, name in CIFAR.items():
        known += [(kind, each) for each in (folder, folder / name) if each.name == name and each.is_dir()]
    if known:
        yield from known
        return
    most = max(places, key=lambda place: len(places[place]))
    if places[most]:
        missing = next(part for part in IDX if part not in places[most])
        raise InputError(
            f"{folder / most}: expected the four files of MNIST's format; {missing}[.gz] is missing; {HINT}"
        )
    if any(entry.is_dir() for entry in folder.iterdir()):
        yield "images", folder
