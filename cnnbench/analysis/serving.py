"""What the tests of a service say: the highest rate within the bound, and whether its checks hold."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from statistics import median

from cnnbench.analysis.stats import Estimate, median_estimate
from cnnbench.records.reason import Reason
from cnnbench.records.record import Launch, Record
from cnnbench.records.serving import MIN_QUERIES_P99, LoadTest, Scenario, ServingLaunch

SAME_LATENCY = 0.05
"""At low load the median of `server` is that of `single` within so much."""
SAME_TIMERS = 0.01
"""Our median and LoadGen's are the same within so much, beside what LoadGen costs a query."""
PAIRS = 6
"""The fewest pairs whose median has an interval at 95 %."""


@dataclass(frozen=True)
class Service:
    """What all launches of a case found out together."""

    launches: Sequence[ServingLaunch]

    @property
    def bound_s(self) -> float:
        """Of p99."""
        return self.launches[0].bound_s

    @cached_property
    def searched(self) -> Mapping[float, list[LoadTest]]:
        """The tests of each rate, from low to high; those with interference only where a rate has no others."""
        found: dict[float, list[LoadTest]] = {}
        for test in self._tests("server", "search"):
            found.setdefault(test.rate or 0.0, []).append(test)
        clean = {rate: [test for test in tests if not test.interference] for rate, tests in found.items()}
        return {rate: clean[rate] or found[rate] for rate in sorted(found)}

    @property
    def invalid(self) -> float | None:
        """The lowest rate, in queries per second, that LoadGen has called INVALID; None where there is none."""
        return next((rate for rate, tests in self.searched.items() if not all(test.valid for test in tests)), None)

    @property
    def valid(self) -> float | None:
        """The highest rate below it, which is VALID; None where there is none."""
        below = [rate for rate in self.searched if self.invalid is None or rate < self.invalid]
        return max(below, default=None)

    @property
    def confirmed(self) -> int:
        """In how many launches the highest VALID rate was VALID."""
        return sum(
            any(test.purpose == "search" and test.rate == self.valid for test in launch.tests)
            for launch in self.launches
        )

    @property
    def at_bound(self) -> list[LoadTest]:
        """The tests of the highest VALID rate."""
        return self.searched[self.valid] if self.valid is not None else []

    @property
    def half_width(self) -> float:
        """How wide the interval is to each side, relative to its middle; 1 where one end is not known."""
        if self.valid is None or self.invalid is None:
            return 1.0
        return (self.invalid - self.valid) / (self.invalid + self.valid)

    def of(self, scenario: Scenario) -> list[LoadTest]:
        """The tests of a scenario for its own figures."""
        return self._tests(scenario, "scenario")

    @property
    def offline_per_s(self) -> float | None:
        """Images per second: the median of the VALID tests, or of all where there is none."""
        tests = self.of("offline")
        return _median(test.per_s for test in [test for test in tests if test.valid] or tests)

    @property
    def efficiency(self) -> float | None:
        """Of the throughput offline, the share that is served within the bound."""
        return self.valid / self.offline_per_s if self.valid and self.offline_per_s else None

    @property
    def cpus(self) -> float | None:
        """CPUs that are busy at the highest VALID rate."""
        return _median(test.cpu_s / test.wall_s for test in self.at_bound)

    @property
    def batch_formed(self) -> float | None:
        """Images in a call of the model at the highest VALID rate, on average."""
        return _median(test.images / test.calls for test in self.at_bound if test.calls)

    @property
    def low_load(self) -> Estimate | None:
        """The median latency of `server` at low load as a multiple of that of `single`, from pairs; None without."""
        ratios = [server.p50_s / single.p50_s for single, server in self._pairs]
        return median_estimate(ratios) if ratios else None

    @property
    def timers(self) -> Estimate | None:
        """Our median latency of `single` as a multiple of LoadGen's."""
        ratios = [single.own_p50_s / single.p50_s for single, _ in self._pairs]
        return median_estimate(ratios) if ratios else None

    @property
    def loadgen_s(self) -> float:
        """Per query."""
        return median(launch.loadgen_s for launch in self.launches)

    @property
    def queue_s(self) -> float:
        """LoadGen with our queue, per query."""
        return median(launch.queue_s for launch in self.launches)

    @property
    def arrival_s(self) -> float:
        """How late LoadGen issues queries of `server`."""
        return median(launch.arrival_s for launch in self.launches)

    @property
    def best_seen(self) -> LoadTest | None:
        """The searched test with the lowest p99."""
        return min((test for tests in self.searched.values() for test in tests), key=lambda t: t.p99_s, default=None)

    def faults(self) -> list[Reason]:
        """Why its figures are not to be believed."""
        if (ratio := self.timers) is None or ratio.low is None or ratio.high is None:
            return []
        single_s = median(single.p50_s for single, _ in self._pairs)
        allowed = SAME_TIMERS + self.loadgen_s / single_s
        if ratio.low > 1 + allowed or ratio.high < 1 - allowed:
            return [Reason(code="timers", detail=f"{100 * (ratio.value - 1):+.1f} %")]
        return []

    def noise(self) -> list[Reason]:
        """Why its figures cannot be told sharply."""
        found = []
        ratio = self.low_load
        if ratio is None or ratio.low is None or ratio.high is None:
            pairs = len(self._pairs)
            detail = f"not checked: {pairs} of {PAIRS} pairs fitted into the case's time; raise case_budget"
            found.append(Reason(code="low-load", detail=detail))
        elif ratio.low > 1 + SAME_LATENCY or ratio.high < 1 - SAME_LATENCY:
            detail = f"{ratio.value:.3f} times [{ratio.low:.3f}, {ratio.high:.3f}]"
            found.append(Reason(code="low-load", detail=detail))
        if not self.searched:
            detail = f"no test of {MIN_QUERIES_P99} queries fitted into the case's time; raise case_budget"
            found.append(Reason(code="not-measured", detail=detail))
        elif self.valid is None and (best := self.best_seen) is not None:
            seen = f"the best p99 seen was {1e3 * best.p99_s:.4g} ms, at {best.rate:g} queries/s"
            found.append(Reason(code="no-rate", detail=f"bound {1e3 * self.bound_s:.4g} ms; {seen}"))
        ends = [rate for rate in (self.valid, self.invalid) if rate is not None]
        beside = [each for rate in ends for test in self.searched[rate] for each in test.interference]
        if beside:
            found.append(Reason(code="interference", detail=f"in the tests that decide: {beside[0]}"))
        return found

    @cached_property
    def _pairs(self) -> list[tuple[LoadTest, LoadTest]]:
        """`single` and `server` at low load, by launch and round."""
        found = []
        for launch in self.launches:
            rounds: dict[int, dict[str, LoadTest]] = {}
            for test in launch.tests:
                if test.purpose == "low-load":
                    rounds.setdefault(test.round, {})[test.scenario] = test
            found += [(pair["single"], pair["server"]) for pair in rounds.values() if len(pair) == 2]
        return found

    def _tests(self, scenario: Scenario, purpose: str) -> list[LoadTest]:
        return [
            test
            for launch in self.launches
            for test in launch.tests
            if (test.scenario, test.purpose) == (scenario, purpose)
        ]


def rate_at_bound(launch: ServingLaunch) -> float | None:
    """The queries per second at which p99 reaches the bound; None where the launch does not tell.

    Between the highest VALID rate and the lowest INVALID one, on the line through the logarithms of both p99; in the
    middle where p99 does not rise between them, as that of a test which ended early need not.
    """
    service = Service([launch])
    if service.valid is None or service.invalid is None:
        return None
    p99_s = [median(test.p99_s for test in service.searched[rate]) for rate in (service.valid, service.invalid)]
    low, high = map(log, p99_s)
    share = (log(service.bound_s) - low) / (high - low) if high > low else 0.5
    return float(service.valid * (service.invalid / service.valid) ** min(max(share, 0.0), 1.0))


def service_of(launches: Iterable[Launch]) -> Service | None:
    """What the launches of a case found out as a service; None if they served nothing."""
    found = [launch.serving for launch in launches if launch.serving is not None]
    return Service(found) if found else None


def services(records: Iterable[Record]) -> dict[str, Service]:
    """By the id of each case that was served."""
    return {record.id: found for record in records if (found := service_of(record.launches)) is not None}


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None
