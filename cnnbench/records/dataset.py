"""Fashion-MNIST, or any data set in MNIST's files, in a folder of the user's; nothing is downloaded."""

from pathlib import Path

from cnnbench.errors import InputError
from cnnbench.suite.case import Frozen

PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
WHERE = ("", "raw", "FashionMNIST/raw", "MNIST/raw")
"""Folders below the user's in which the files may lie; torchvision puts them into the last two."""
HINT = (
    "give the folder with --data; on Debian and Ubuntu `apt install dataset-fashion-mnist` puts them into "
    "/usr/share/datasets/fashion-mnist, and torchvision.datasets.FashionMNIST(FOLDER, download=True) into FOLDER"
)


class DataSet(Frozen):
    """Where its files lie."""

    train_images: str
    train_labels: str
    test_images: str
    test_labels: str


def find(folder: Path) -> DataSet:
    """The data set's four files, compressed by gzip or not. Raises InputError if one is missing."""
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with Fashion-MNIST; there is none; {HINT}")
    found = max((_files(folder / below) for below in WHERE), key=len)
    if missing := [part for part in PARTS if part not in found]:
        raise InputError(f"{folder}: expected the four files of Fashion-MNIST; {missing[0]}[.gz] is missing; {HINT}")
    return DataSet(**{name: str(found[part]) for name, part in zip(DataSet.model_fields, PARTS, strict=True)})


def _files(folder: Path) -> dict[str, Path]:
    candidates = {part: (folder / part, folder / f"{part}.gz") for part in PARTS}
    return {part: file for part, files in candidates.items() for file in files[::-1] if file.is_file()}
