"""What a study's results say of its claims. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from cnnbench.analysis.stats import CONFIDENCE, Estimate, student_interval, student_quantile
from cnnbench.records.study_result import StudyResult, Tried
from cnnbench.suite.study import Claim, Measure, Study, parse_measure

Results = Mapping[tuple[str, int], StudyResult]
"""By arm and seed."""
Verdict = Literal["holds", "does not hold", "undecided"]
MANY = 1e6
"""Degrees of freedom of what is known of a share of many images."""


class Judged(NamedTuple):
    """A claim with its numbers."""

    claim: Claim
    more: float
    """The mean over seeds of what is claimed to be more."""
    than: float
    difference: Estimate
    """Of the two; without an interval where both are exact."""
    verdict: Verdict


class Value(NamedTuple):
    """A measure of one run, and the variance that the choice of test images gives it."""

    value: float
    variance: float = 0.0


def value_of(result: StudyResult, measure: Measure, runtime: str) -> Value | None:
    """None where the run does not have it."""
    if measure.of == "parameters":
        return Value(float(result.parameters))
    if measure.of == "gradient":
        norms = list(result.gradients.values())
        return Value(norms[0] / norms[-1]) if norms and norms[-1] else None
    if measure.what is None:
        if runtime not in result.accuracy:
            return None
        return _share(result.accuracy[runtime], result.test_images)
    found = next(
        (
            each
            for each in result.tried
            if (each.what, each.amount, each.runtime) == (measure.what, measure.amount, runtime)
        ),
        None,
    )
    return None if found is None else _share(share_of(found, measure.of), found.images)


def share_of(tried: Tried, of: str) -> float:
    """Its accuracy, or consistency."""
    return (tried.correct if of == "accuracy" else tried.same) / tried.images


def _share(share: float, images: int) -> Value:
    return Value(share, share * (1 - share) / images if images else 0.0)


def values(results: Results, study: Study, arm: str, measure: Measure) -> list[Value]:
    """Of each seed, in the study's order, as far as there are."""
    runs = (results.get((arm, seed)) for seed in study.seeds)
    found = (value_of(run, measure, study.runtime) for run in runs if run is not None)
    return [each for each in found if each is not None]


def estimate(of: Sequence[Value]) -> Estimate:
    """The mean over seeds.

    Its interval has two parts, added as variances are: Student's t interval of the seeds, and 1.96 standard errors of a
    share of the test images, which are the same for all seeds, so that more seeds do not narrow it. There is none of
    fewer than two seeds, and none is needed where all runs have one value by construction.
    """
    mean = fmean(each.value for each in of)
    if len(of) < 2:
        return Estimate(mean)
    _, seeds = student_interval([each.value for each in of], CONFIDENCE)
    images = student_quantile((1 + CONFIDENCE) / 2, MANY) * math.sqrt(fmean(each.variance for each in of))  # type: ignore[arg-type]
    half = math.hypot(seeds, images)
    return Estimate(mean, mean - half, mean + half)


def judge(study: Study, results: Results) -> list[Judged]:
    """Each claim; one whose runs are not there is left out."""
    return [judged for claim in study.claims if (judged := _judged(study, results, claim)) is not None]


def _judged(study: Study, results: Results, claim: Claim) -> Judged | None:
    measure = parse_measure(claim.more)
    more = values(results, study, claim.of, measure)
    if isinstance(claim.than, float):
        than = [Value(claim.than)] * len(more)
    else:
        than = values(results, study, claim.than, parse_measure(claim.than_more or claim.more))
    if not more or len(than) != len(more):
        return None
    pairs = zip(more, than, strict=True)
    difference = estimate([Value(one.value - other.value, one.variance + other.variance) for one, other in pairs])
    if measure.of == "parameters":
        difference = Estimate(difference.value, difference.value, difference.value)
    return Judged(claim, fmean(v.value for v in more), fmean(v.value for v in than), difference, _verdict(difference))


def _verdict(difference: Estimate) -> Verdict:
    """By where all of the interval lies."""
    if difference.low is None or difference.high is None:
        return "undecided"
    return "holds" if difference.low > 0 else "does not hold" if difference.high <= 0 else "undecided"
