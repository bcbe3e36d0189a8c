"""Runs side by side: what is compared with what, ratios with intervals, means over common cases, ranks, prices."""

import csv
import dataclasses
import math
import time
from pathlib import Path

import pytest

import cnnbench
from cnnbench.analysis.compare import Comparison, compare_runs, compared_rows, key_of
from cnnbench.analysis.hardware import MAX_MACHINES, by_hardware
from cnnbench.analysis.prices import read_prices
from cnnbench.analysis.stats import Estimate, geometric_mean, independent_ratio
from cnnbench.api import Compared
from cnnbench.errors import InputError, RunFolderError
from cnnbench.records.environment import Threads
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run
from cnnbench.report.comparing import remarks
from cnnbench.suite.case import Case
from tests.conftest import Cli
from tests.peaks import peaks
from tests.records import ENVIRONMENT, case, record

TIMES = [0.010, 0.0101, 0.0102, 0.0098, 0.0099, 0.010, 0.010]


def scaled(factor: float) -> list[float]:
    return [time * factor for time in TIMES]


def with_threads(of: Case, threads: int) -> Case:
    return of.model_copy(update={"threads": threads})


def run(name: str, *records: Record, suite: str = "tiny", torch: str = "2.14.1") -> Run:
    changes = {"software": ENVIRONMENT.software | {"torch": torch}, "threads": Threads(used=(2,), usable=2)}
    environment = ENVIRONMENT.model_copy(update=changes)
    return Run(Path(name), suite, "2026-01-01T00:00:00+00:00", environment, {each.id: each for each in records})


def models(factors: dict[str, float], batch: int = 8) -> list[Record]:
    return [record(case("eager", batch=batch, model=model), scaled(factor)) for model, factor in factors.items()]


@pytest.fixture
def two_runs() -> list[Run]:
    """b takes twice as long for lenet5 and half as long for alexnet, and has no vgg11."""
    a = run("a", *models({"lenet5": 1, "alexnet": 3, "vgg11": 2}))
    b = run("b", *models({"lenet5": 2, "alexnet": 1.5}), record(case("eager", model="vgg11"), status="failed"))
    return [a, b]


@pytest.fixture
def two(two_runs: list[Run]) -> Comparison:
    return compare_runs(two_runs)


def test_the_interval_of_a_ratio_combines_both_medians() -> None:
    ratio = independent_ratio(Estimate(2.0, 2.0 / math.exp(0.03), 2.0 * math.exp(0.03)), Estimate(1.0, math.exp(-0.04)))
    assert (ratio.value, ratio.low) == (2.0, None)
    ratio = independent_ratio(
        Estimate(2.0, 2.0 / math.exp(0.03), 2.0 * math.exp(0.06)),
        Estimate(1.0, math.exp(-0.08), math.exp(0.04)),
    )
    # Below: 0.03 of the numerator and 0.04 of the denominator upwards; above: 0.06 and 0.08.
    assert ratio.low == pytest.approx(2.0 * math.exp(-0.05))
    assert ratio.high == pytest.approx(2.0 * math.exp(0.10))


def test_a_geometric_mean_does_not_depend_on_the_reference() -> None:
    there = [Estimate(2.0), Estimate(0.5), Estimate(8.0)]
    back = [Estimate(1 / each.value) for each in there]
    assert geometric_mean(there).value == pytest.approx(2.0)
    assert geometric_mean(back).value == pytest.approx(0.5)
    mean = geometric_mean([Estimate(1.0, math.exp(-0.3), math.exp(0.6)), Estimate(1.0, math.exp(-0.4), math.exp(0.8))])
    assert mean.low == pytest.approx(math.exp(-0.25))
    assert mean.high == pytest.approx(math.exp(0.5))


def test_ratios_and_means_are_over_the_cases_that_both_have(two: Comparison) -> None:
    a, b = two.machines
    lenet, alexnet, _ = two.keys
    ratio = two.ratio(b, lenet)
    assert ratio is not None
    assert ratio.value == pytest.approx(2.0)
    assert ratio.low is not None
    assert ratio.low < 2.0
    assert two.ratio(a, lenet) is None
    assert two.common == [lenet, alexnet]
    mean = two.mean_ratio(b, "inference")
    assert mean is not None
    assert mean.value == pytest.approx(1.0)
    assert {key.model: names for key, names in two.left_out.items()} == {"vgg11/k10": ["b (failed)"]}


def test_a_case_is_named_by_what_is_unusual_of_it() -> None:
    usual = case("ort", "training", batch=4)
    assert key_of(usual).text == "lenet5, training, ort, fp32, batch 4"
    spec = usual.spec.model_copy(update={"seed": 3})
    about = {"spec": spec, "precision": "int8", "calibration": "shapes", "layout": "channels_last", "allocator": "keep"}
    unusual = usual.model_copy(update={**about, "ranks": 2, "trainable": "head", "threads": 7})
    assert key_of(unusual).model == "lenet5/train:head/r2"
    assert key_of(unusual).setting == "training, ort, int8/cal:shapes, channels_last, keep, batch 4, seed 3"


def test_what_a_machine_did_not_measure_is_told_with_its_status(two: Comparison) -> None:
    one, other = (case("eager", model=model) for model in ("lenet5", "alexnet"))
    a = run("a", record(one, scaled(2)), record(other, TIMES))
    b = run("b", record(one, TIMES), record(other, status="unavailable"))
    c = run("c", record(one, scaled(3)), record(other, TIMES, status="invalid"))
    compared = compare_runs([a, b, c])
    assert compared.left_out == {key_of(other): ["b", "c (invalid)"]}
    assert compared.places(key_of(one)) == {"a": 2, "b": 1, "c": 3}
    assert compared.places(key_of(other)) == {"a": 1}
    rows = [(row.key.model, row.machine.name, row.rank, row.is_common) for row in compared_rows(compared)]
    lenet, alexnet = key_of(one).model, key_of(other).model
    assert rows == [(lenet, "a", 2, True), (lenet, "b", 1, True), (lenet, "c", 3, True), (alexnet, "a", 1, False)]
    ratios = [row.ratio and round(row.ratio.value, 6) for row in compared_rows(compared)]
    assert ratios == [None, 0.5, 1.5, None]
    assert compared.mean_ratio(compared.machines[1], "training") is None
    assert compared.rankings() == {}, "one model alone has no ranking"
    assert two.mean_ratio(two.machines[0], "inference") is None


def test_the_mean_of_several_machines_is_the_median_of_those_with_all_cases() -> None:
    one, other = (case("eager", model=model) for model in ("lenet5", "alexnet"))
    whole = [run(f"m{n}", record(one, scaled(n)), record(other, scaled(4 * n))) for n in (1, 2, 4)]
    part = run("part", record(one, scaled(100)))
    machines = compare_runs([*whole, part]).machines
    keys = [key_of(one), key_of(other)]
    kind = dataclasses.replace(machines[3], members=machines)
    assert kind.mean_time(keys).value == pytest.approx(0.04)  # of 0.02, 0.04 and 0.08
    assert kind.mean_time(keys[:1]).value == pytest.approx(0.03)  # of 0.01, 0.02, 0.04 and 1
    assert machines[2].mean_time(keys).value == pytest.approx(0.08)
    assert (kind.count, machines[0].count) == (4, 1)
    assert dataclasses.replace(machines[3], members=machines[3:]).mean_time(keys[:1]).value == pytest.approx(1.0)
    lone = dataclasses.replace(machines[0], members=machines[3:])
    assert lone.mean_time(keys).value == pytest.approx(0.02), "no machine of it has all of them"


def test_hardware_is_the_accelerators_or_the_processors_name() -> None:
    one = run("box", record(case("eager"), TIMES), record(case("eager", device="cuda"), TIMES))
    assert [machine.hardware for machine in compare_runs([one]).machines] == ["Testing CPU", "cuda"]
    assert one.environment is not None
    named = one.environment.model_copy(update={"accelerators": {"cuda": "H200"}})
    one = dataclasses.replace(one, environment=named, peaks=[peaks("cuda"), peaks(threads=2)])
    cpu, cuda = compare_runs([one]).machines
    assert (cpu.hardware, cuda.hardware) == ("Testing CPU", "H200")
    assert [machine.peaks for machine in (cpu, cuda)] == [one.peaks[1], one.peaks[0]]
    assert cpu.run.records == {}
    unknown = compare_runs([dataclasses.replace(one, environment=None)]).machines
    assert [(machine.hardware, machine.threads) for machine in unknown] == [("unknown", None), ("cuda", None)]


def test_ranks_of_models_change_from_machine_to_machine(two: Comparison) -> None:
    (ranking,) = two.rankings().values()
    by_model = {name: {model.partition("/")[0]: rank for model, rank in r.items()} for name, r in ranking.items()}
    assert by_model == {"a": {"lenet5": 1, "alexnet": 2}, "b": {"alexnet": 1, "lenet5": 2}}


def test_overlapping_intervals_share_a_rank() -> None:
    compared = compare_runs([run("a", *models({"lenet5": 1.0, "alexnet": 1.001})), run("b", *models({"lenet5": 1.0}))])
    assert set(compared.places(compared.keys[0]).values()) == {1}


def test_a_number_of_threads_that_is_the_default_is_no_machine_of_its_own() -> None:
    default, other = case("eager", model="lenet5"), case("eager", model="alexnet")
    of_run = run("a", record(default, TIMES), record(with_threads(other, 2), TIMES))
    (machine,) = compare_runs([of_run]).machines
    assert (machine.threads, len(machine.cases)) == (2, 2)


def test_two_numbers_of_threads_in_one_run_are_two_machines() -> None:
    of = case("eager")
    one = run("laptop", record(with_threads(of, 1), scaled(2)), record(with_threads(of, 2), TIMES))
    compared = compare_runs([one], reference="laptop, 2 threads")
    assert [machine.name for machine in compared.machines] == ["laptop, 1 thread", "laptop, 2 threads"]
    assert compared.common == [key_of(of)]
    ratio = compared.ratio(compared.machines[0], key_of(of))
    assert ratio is not None
    assert ratio.value == pytest.approx(2.0)


def test_a_device_is_a_machine_of_its_own() -> None:
    one = run("box", record(case("eager"), TIMES), record(case("eager", device="cuda"), scaled(0.1)))
    assert [machine.name for machine in compare_runs([one]).machines] == ["box, cpu", "box, cuda"]


def test_in_what_runs_differ_is_said() -> None:
    a = run("a", *models({"lenet5": 1}))
    b = run("b", *models({"lenet5": 1}), suite="other", torch="2.9")
    found = remarks(compare_runs([a, b]))
    assert found[0].startswith("Suites differ: tiny (a); other (b).")
    assert found[1].startswith("torch differs: 2.14.1 (a); 2.9 (b).")
    assert found[-1].startswith("1 of 1 cases were measured on every machine")


def test_names_of_machines_are_data_in_markdown_and_in_spreadsheets(tmp_path: Path) -> None:
    evil = "=![x](http:evil)|<b>`"
    of = ("eager", "inference", "cpu", 8, "lenet5"), ("eager", "inference", "cpu", 8, "alexnet")
    compared = Compared(compare_runs([run(name, *(record(case(*each), TIMES) for each in of)) for name in (evil, "b")]))
    compared.write(tmp_path / "out")
    shown = (tmp_path / "out" / "report.md").read_text()
    assert "](http" not in shown
    assert "<b>" not in shown
    assert "|&lt;b&gt;" not in shown
    for file in (tmp_path / "out" / "tables").glob("*.csv"):
        names = next(csv.reader(file.read_text().splitlines()))
        assert not any(name.startswith("=") for name in names), file


def test_invalid_records_are_compared_with_nothing() -> None:
    a = run("a", record(case("eager"), TIMES))
    b = run("b", record(case("eager"), TIMES, "invalid"), record(case("ort"), TIMES))
    compared = compare_runs([a, b])
    assert compared.common == []
    assert compared.mean_ratio(compared.machines[1], "inference") is None


@pytest.mark.parametrize(("reference", "name"), [("1", "a"), ("2", "b"), ("b", "b")])
def test_the_reference_is_a_number_or_a_name(two_runs: list[Run], reference: str, name: str) -> None:
    assert compare_runs(two_runs, reference).reference.name == name


def test_what_cannot_be_compared_is_refused(two_runs: list[Run]) -> None:
    with pytest.raises(InputError, match="--reference: expected a machine, one of a, b; got '3'"):
        compare_runs(two_runs, "3")
    with pytest.raises(RunFolderError, match="folders of different names"):
        compare_runs([two_runs[0], two_runs[0]])
    with pytest.raises(RunFolderError, match="expected runs with a measured case"):
        compare_runs([run("empty")])


def prices(folder: Path, text: str) -> Path:
    file = folder / "prices.yaml"
    file.write_text(text)
    return file


def test_images_per_joule_and_per_unit_of_currency(tmp_path: Path, two_runs: list[Run]) -> None:
    file = prices(tmp_path, "currency: EUR\nmachines:\n  a: {watts: 200, price_per_hour: 0.8}\n  b: {watts: 50}\n")
    compared = compare_runs(two_runs, prices=file)
    a, b = (next(row for row in compared_rows(compared) if row.machine.name == name) for name in ("a", "b"))
    assert a.measured.images_per_s == pytest.approx(800)  # 8 images in 10 ms
    assert a.machine.images_per_joule(a.measured) == pytest.approx(800 / 200)
    assert a.machine.images_per_currency(a.measured) == pytest.approx(800 * 3600 / 0.8)
    assert b.machine.images_per_joule(b.measured) == pytest.approx(400 / 50)
    assert b.machine.images_per_currency(b.measured) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("machines:\n  a: {watts: -3}\n", r"prices.yaml:2: machines.a.watts: .*greater than 0; got -3"),
        ("machines:\n  a: {wats: 3}\n", r"prices.yaml:2: machines.a.wats: extra inputs"),
        ("machines:\n  c: {watts: 3}\n", r"prices.yaml:2: machines.c: expected a machine, one of a, b; got 'c'"),
        ("machines:\n  a: {watts: 0}\n", r"prices.yaml:2: machines.a.watts: .*greater than 0; got 0"),
        ("machines:\n  a: {price_per_hour: 0}\n", r"prices.yaml:2: machines.a.price_per_hour: .*greater than 0; got 0"),
        ("machines:\n  a: {price_per_hour: .inf}\n", r"prices.yaml:2: machines.a.price_per_hour: .*finite number"),
        ("machines:\n  a: {watts: .inf}\n", r"prices.yaml:2: machines.a.watts: .*finite number"),
        ("currency: ''\n", r"prices.yaml:1: currency: string should have at least 1 character"),
        ("machines: [\n", r"prices.yaml:\d: cannot be read as YAML"),
    ],
)
def test_a_mistake_in_the_prices_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prices(prices(tmp_path, text), ["a", "b"])


def test_what_is_not_given_is_not_known(tmp_path: Path) -> None:
    found = read_prices(prices(tmp_path, "# nothing yet\n"), ["a"])
    assert (found.currency, found.machines) == ("unit of currency", {})
    given = read_prices(prices(tmp_path, "currency: C\nmachines: {a: {watts: 0.5}}\n"), ["a", "b"])
    assert (given.currency, given.machines["a"].watts, given.machines["a"].price_per_hour) == ("C", 0.5, None)


def test_what_the_systems_counters_tell_of_energy_counts_before_what_was_given(tmp_path: Path) -> None:
    measured = record(case("eager", batch=8), TIMES)
    assert measured.measurement is not None
    launch = measured.measurement.launches[0]
    blocks = [block.model_copy(update={"joules": 0.8}) for block in launch.blocks]  # two calls of eight images each
    measurement = measured.measurement.model_copy(update={"launches": [launch.model_copy(update={"blocks": blocks})]})
    one = run("a", measured.model_copy(update={"measurement": measurement}))
    compared = compare_runs([one], prices=prices(tmp_path, "machines: {a: {watts: 1}}"))
    assert [row.machine.images_per_joule(row.measured) for row in compared_rows(compared)] == [pytest.approx(20.0)]


def test_tables_name_what_was_measured_and_what_was_left_out(two_runs: list[Run]) -> None:
    a, b = two_runs
    a = dataclasses.replace(a, peaks=[peaks(threads=2)])
    tables = Compared(compare_runs([a, b])).tables
    assert list(tables) == ["machines", "means", "cases", "rankings", "left-out"]
    assert tables["machines"].cells["fp32 GFLOP/s"].tolist() == ["100", "unknown"]
    assert tables["means"].cells["mean time"].tolist()[0] == "1, the reference"
    row = tables["cases"].cells.iloc[0]
    assert row["a ms"] == "10.0 [9.8, 10.2]"
    assert row["b ratio"].startswith("×2.00 [1.9")
    assert tables["left-out"].cells["machines without it"].tolist() == ["b (failed)"]
    assert all(len(table.cells) == len(table.data) for table in tables.values())


def test_a_comparison_is_written_as_a_page_with_tables_and_charts(tmp_path: Path, two: Comparison) -> None:
    page = Compared(two).write(tmp_path / "out")
    text = page.read_text()
    assert "A description, not a verdict" in text
    assert "<svg" in text
    assert {"rankings.svg", "ratios.svg"} <= {path.name for path in (tmp_path / "out" / "charts").iterdir()}
    assert (tmp_path / "out" / "tables" / "cases.csv").read_text().startswith("model,workload,batch")
    assert "## Machines" in (tmp_path / "out" / "report.md").read_text()


def test_from_python_it_is_one_call() -> None:
    assert cnnbench.compare.__doc__
    with pytest.raises(RunFolderError, match="expected a run's folder"):
        cnnbench.compare("nowhere")


def test_from_the_command_line(two: Comparison, home: Path, cli: Cli) -> None:
    done = cli("compare", "nowhere", "--reference", "2")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_what_is_calibrated_with_other_data_is_another_case() -> None:
    int8 = case(runtime="ort").model_copy(update={"precision": "int8"})
    assert key_of(int8) != key_of(int8.model_copy(update={"calibration": "shapes"}))


def fleet(kinds: dict[str, tuple[float, int]]) -> list[Run]:
    """Runs of many machines: by processor, the factor of its times and how many machines have it.

    The machines of a kind are slower by a percent each.
    """
    found = []
    for cpu, (factor, machines) in kinds.items():
        for number in range(machines):
            one = run(f"{cpu}-{number}", *models({"lenet5": factor * 1.01**number, "alexnet": 3 * factor}))
            assert one.environment is not None
            machine = one.environment.machine.model_copy(update={"cpu": cpu})
            found.append(dataclasses.replace(one, environment=one.environment.model_copy(update={"machine": machine})))
    return found


def test_of_many_machines_kinds_of_hardware_are_shown_and_files_have_every_machine(tmp_path: Path) -> None:
    compared = Compared(compare_runs(fleet({"old": (2.0, 11), "new": (1.0, 11)}), reference="new-3"))
    tables = compared.tables
    assert tables["machines"].cells[["machine", "machines"]].to_numpy().tolist() == [["new", "11"], ["old", "11"]]
    times = tables["cases"].cells
    assert times["new ms"].tolist()[0].startswith("10.5 [10")  # of the sixth: 10 ms x 1.01^5
    assert len(times) == 2
    spread = tables["spreads"].cells.iloc[0]
    assert (spread["fastest"], spread["slowest"]) == ("new-0, ×0.98", "new-10, ×1.03")  # 1.01^-2.5, over both models
    assert len(compared.frame) == 22 * 2
    page = compared.write(tmp_path / "out").read_text()
    assert "22 machines of 2 kinds of hardware" in page
    assert page.count("new-7") == 0
    assert "new-7" in (tmp_path / "out" / "tables" / "every-machine.csv").read_text()


def test_how_far_machines_of_a_kind_differ_is_over_the_cases_that_each_has() -> None:
    """Medians of the kind: 20 ms for lenet5, of three machines, and 45 ms for alexnet, of two."""
    made = [models({"lenet5": 1, "alexnet": 3}), models({"lenet5": 4}), models({"lenet5": 2, "alexnet": 6})]
    runs = [run(name, *records) for name, records in zip("abc", made, strict=True)]
    runs[1] = run("b", *made[1], record(case("eager", model="alexnet"), status="failed"))
    kinds = by_hardware(compare_runs(runs))
    (spread,), (kind,) = kinds.spreads, kinds.comparison.machines
    assert (spread.kind, spread.workload, spread.machines, spread.incomplete) == ("Testing CPU", "inference", 3, 1)
    assert (spread.fastest.machine, spread.slowest.machine) == ("a", "b")
    assert (spread.fastest.ratio, spread.slowest.ratio) == pytest.approx(((1 / 2 * 3 / 4.5) ** 0.5, 2.0))
    assert (kind.run.folder.name, kind.count, kinds.machines, kinds.kinds) == ("c", 3, 3, 1)
    assert [measured.seconds.value for measured in kind.cases.values()] == pytest.approx([0.02, 0.045])
    assert kind.not_measured == {}, "some of its machines measured alexnet"
    assert kinds.comparison.reference is kind


def test_kinds_differ_by_memory_threads_and_suite_and_that_of_the_reference_is_first() -> None:
    one = models({"lenet5": 1})
    plain = [run(name, *one) for name in ("p", "q")]
    assert plain[0].environment is not None
    machine = plain[0].environment.machine
    larger = plain[0].environment.model_copy(
        update={"machine": machine.model_copy(update={"memory_bytes": 17 * 10**9})}
    )
    single = [record(with_threads(each.case, 1), TIMES) for each in one]
    runs = [*plain, dataclasses.replace(run("large", *one), environment=larger), run("single", *single)]
    runs += [run("other", *one, suite="other"), dataclasses.replace(run("bare", *one), environment=None)]
    found = by_hardware(compare_runs(runs, reference="single"))
    assert [(each.name, each.count) for each in found.comparison.machines] == [
        ("Testing CPU, 1 thread, 8 GiB, suite tiny", 1),
        ("Testing CPU, 2 threads, 8 GiB, suite tiny", 2),
        ("Testing CPU, 2 threads, 16 GiB, suite tiny", 1),
        ("Testing CPU, 2 threads, 8 GiB, suite other", 1),
        ("unknown", 1),
    ]


def test_a_kinds_energy_is_the_median_where_all_of_its_machines_tell_it() -> None:
    def measured(name: str, joules: float | None) -> Run:
        of = record(case("eager", batch=8), TIMES)
        (launch,) = of.launches
        blocks = [block.model_copy(update={"joules": joules}) for block in launch.blocks]
        assert of.measurement is not None
        launches = [launch.model_copy(update={"blocks": blocks})]
        return run(
            name, of.model_copy(update={"measurement": of.measurement.model_copy(update={"launches": launches})})
        )

    def told(*joules: float | None) -> float | None:
        compared = compare_runs([measured(f"m{number}", each) for number, each in enumerate(joules)])
        (found,) = by_hardware(compared).comparison.machines[0].cases.values()
        return found.joules_per_image

    assert told(1.6, 16.0, 3.2) == pytest.approx(0.2)  # of 16 images in each block
    assert told(1.6, None, 3.2) is None


def test_the_mean_of_a_kind_is_known_as_well_as_its_machines_agree() -> None:
    """What makes a machine slow makes all of its cases slow, so many cases make the mean no surer."""
    runs = fleet({"old": (2.0, 11), "new": (1.0, 11)})
    kinds = by_hardware(compare_runs(runs)).comparison
    new = next(machine for machine in kinds.machines if machine.name == "new")
    mean = kinds.mean_ratio(new, "inference")
    assert mean is not None
    assert mean.value == pytest.approx(0.5)
    assert mean.low is not None
    assert mean.low < 0.49  # of one machine alone it is 0.494, from nine of ten blocks


def test_kinds_of_one_hardware_are_named_by_what_tells_them_apart() -> None:
    runs = fleet({"old": (2.0, 3)})
    other = run("other", *models({"lenet5": 1.0}), torch="2.13.0")
    assert runs[0].environment is not None
    assert other.environment is not None
    same = other.environment.model_copy(update={"machine": runs[0].environment.machine})
    kinds = by_hardware(compare_runs([*runs, dataclasses.replace(other, environment=same)]))
    assert [machine.name for machine in kinds.comparison.machines] == ["old, torch 2.14.1", "old, torch 2.13.0"]


def test_kinds_that_are_too_many_are_counted() -> None:
    runs = fleet({f"cpu{number}": (1.0, 1 + (number == 24)) for number in range(25)})
    compared = Compared(compare_runs(runs))
    machines = compared.tables["machines"]
    assert machines.cells["machine"].tolist()[:2] == ["cpu0", "cpu24"]
    assert len(machines.cells) == MAX_MACHINES
    assert machines.notes[0].endswith("5 kinds with fewer machines are in the files alone.")
    assert len(compared.frame) == 26 * 2


@pytest.mark.slow
def test_fifty_runs_of_two_hundred_cases_are_compared_within_a_minute(tmp_path: Path) -> None:
    names = ["lenet5", "alexnet", "vgg11", "resnet18", "mobilenet_v2"]
    records = [
        record(case("eager", "inference", batch=batch, model=model), scaled(batch + place))
        for place, model in enumerate(names)
        for batch in range(1, 41)
    ]
    runs = [run(f"r{number}", *records) for number in range(50)]
    began = time.process_time()
    compared = Compared(compare_runs(runs))
    assert len(compared.frame) == 50 * 200
    compared.write(tmp_path / "out")
    assert time.process_time() - began < 60
