"""How the artifact that was timed classifies a data set's test images, on the machine that timed it."""

from typing import Self

from pydantic import model_validator

from cnnbench.records.bounds import Count, Recorded


class Evaluation(Recorded):
    """Counts of test images; accuracy, intervals and verdicts are computed from them."""

    data: str
    """The data set, as `--data` takes it."""
    problem: str = ""
    """Why there are no counts, in one sentence."""
    images: Count = 0
    correct: Count = 0
    """That are put into the right class."""
    reference: str = ""
    """The backend in float32 that the counts below compare with; empty where it could not be evaluated."""
    only_this: Count = 0
    """That this case alone puts into the right class."""
    only_reference: Count = 0
    """That the reference alone puts into the right class."""
    same_class: Count = 0
    """That both put into the same class, right or wrong."""

    draws: list[Count] = []
    """Right images of the same quantisation, calibrated with other choices of images."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.only_this <= self.correct <= self.images and max([self.same_class, *self.draws]) <= self.images):
            raise ValueError("expected counts of at most all images")
        if self.correct + self.only_reference > self.images:
            raise ValueError("expected images that the reference alone gets right among those that are wrong")
        return self

    @property
    def reference_correct(self) -> int:
        """Images that the reference puts into the right class."""
        return self.correct - self.only_this + self.only_reference
