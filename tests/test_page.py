"""Pages from fixed records: their structure, their charts, and that they need and run nothing else."""

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cnnbench.analysis.cases import case_rows
from cnnbench.analysis.pareto import Point, is_dominated, is_on_front
from cnnbench.analysis.stats import Estimate
from cnnbench.errors import RunFolderError
from cnnbench.records.environment import Threads
from cnnbench.records.reason import Reason
from cnnbench.records.run_folder import Run
from cnnbench.report.answer import Figure, Line
from cnnbench.report.bounds import bound_tables
from cnnbench.report.charts import DARK, Chart, ratio_ticks
from cnnbench.report.files import table_latex, write_report
from cnnbench.report.html import TEMPLATES, Lead, Page, Section, html, summary_html
from cnnbench.report.labels import PLACES, places
from cnnbench.report.samples import MAX_SAMPLES, samples
from cnnbench.report.sections import run_page
from cnnbench.report.table import Table
from cnnbench.report.tables import run_tables
from tests.peaks import peaks
from tests.read_page import ReadPage
from tests.records import ENVIRONMENT, case, record
from tests.sample_run import EVIL, sample_run

Golden = Callable[[str, str], None]


@pytest.fixture
def sample(tmp_path: Path) -> Run:
    return sample_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The sample's page; its charts are drawn once for all tests."""
    return page_of(sample_run(tmp_path_factory.mktemp("run")))


def page_of(run: Run) -> Page:
    return run_page(run, run_tables(run))


@pytest.fixture(scope="module")
def read(page: Page) -> ReadPage:
    return ReadPage(html(page))


def rows_of(chart: Chart) -> list[dict[str, Any]]:
    """Everything that a chart draws."""
    return [row for rows in chart.vega_lite["datasets"].values() for row in rows]


@pytest.fixture(scope="module")
def drawn(page: Page) -> dict[str, list[dict[str, Any]]]:
    """What each chart draws, by its name."""
    return {chart.name: rows_of(chart) for chart in page.charts}


def test_every_table_stands_on_the_page_as_it_is(page: Page, read: ReadPage) -> None:
    tables = {part.name: part for section in page.sections for part in section.parts if isinstance(part, Table)}
    assert list(read.tables) == list(tables)
    assert list(tables) == ["machine", "runtimes", "inference", "training", "models", "counters", "start"]
    for name, table in tables.items():
        shown = read.tables[name]
        assert shown.headings == table.headings
        assert [[cell.text for cell in row] for row in shown.rows] == table.cells.to_numpy().tolist()
        assert (shown.caption, shown.notes) == (table.caption, list(table.notes))
        kinds = ["figure" if column.is_figure else "words" for column in table.columns]
        assert all([cell.kind for cell in row] == kinds for row in shown.rows)


def test_cells_sort_by_the_numbers_behind_them(read: ReadPage) -> None:
    inference = read.tables["inference"]
    place = {name: number for number, name in enumerate(inference.headings)}
    row = next(row for row in inference.rows if row[0].text == "resnet18" and row[2].text == "ort/cpu")
    assert row[place["ms"]].text == "20.0 [19.6, 20.4]"
    assert row[place["ms"]].number == pytest.approx(20.0)
    assert row[place["vs eager"]].number == pytest.approx(2.0)
    assert row[place["model"]].number is None
    absent = next(row for row in inference.rows if row[place["backend"]].text == "eager/cuda")
    assert all(cell.number is None for cell in absent if cell.text == "–")


def test_rows_that_are_no_result_are_marked(read: ReadPage) -> None:
    inference, training = read.tables["inference"], read.tables["training"]
    marked = {row[-1].text.split()[0]: kind for row, kind in zip(inference.rows, inference.classes, strict=True)}
    assert marked == {"ok": "", "unavailable": "absent", "failed": "struck"}
    assert training.classes.count("struck") == 1


def test_tables_are_filtered_by_what_their_rows_are_of(read: ReadPage) -> None:
    choices = read.tables["inference"].choices
    assert list(choices) == ["model", "batch", "backend"]
    assert choices["backend"] == ["eager/cpu", "ort/cpu", "eager/cuda"]
    assert read.tables["counters"].choices["model"] == ["alexnet", "resnet18", "mobilenet_v2"]


def test_the_answer_stands_first_and_each_section_opens_below_it(page: Page, read: ReadPage) -> None:
    assert page.lead is not None
    question = "Which of 4 networks, in PyTorch or ONNX Runtime: how fast, and why?"
    assert read.texts("h1") == [question]
    assert read.texts("title") == [f"sample on Testing CPU, 2 threads, 2026-01-01: {question} – cnnbench"]
    subtitle = next(element.text for element in read.elements if element.attributes.get("class") == "subtitle")
    assert subtitle == "sample on Testing CPU, 2 threads, 2026-01-01"
    values = [element.text for element in read.elements if element.attributes.get("class") == "value"]
    assert [" ".join(text.split()) for text in values] == [
        "×1.81 [1.81, 1.82]",
        "×1.25 [1.25, 1.25]",
        "5.00 ms [4.90, 5.10]",
        "±2.0 %",
    ]
    assert read.texts("dt") == [line.label for line in page.lead.lines]
    assert read.texts("dd") == [line.text for line in page.lead.lines]
    assert read.texts("h2") == read.texts("summary") == [section.heading for section in page.sections]
    order = [element.tag for element in read.elements]
    assert order.index("h1") < order.index("dl") < order.index("details") < order.index("table")
    assert read.texts("h3")[:3] == [
        "Published accuracy against latency, batch 1, cpu",
        "Hardware and software",
        "Width of the intervals",
    ]
    assert len(read.ids) == len(set(read.ids))
    paragraphs = [element.text for element in read.elements if element.attributes.get("class") == "prose"]
    assert paragraphs == [text for section in page.sections for text in section.prose]


def test_the_chart_that_decides_says_that_another_allocator_was_measured_elsewhere(sample: Run) -> None:
    (decides, *_) = page_of(sample).charts
    assert decides.caption.startswith("Up and to the left")
    kept = record(case("ort").model_copy(update={"allocator": "keep"}), [0.01] * 7)
    (decides, *_) = page_of(replace(sample, records=sample.records | {kept.id: kept})).charts
    assert decides.caption.startswith(
        "All with the system's memory allocator: others were measured at batch 8 alone. Up and"
    )


def test_what_is_compared_stands_together_wherever_the_suite_has_it(tmp_path: Path) -> None:
    cases = [case(runtime, model=model) for runtime in ("eager", "ort") for model in ("lenet5", "simple_cnn")]
    run = Run(tmp_path, "t", "?", ENVIRONMENT, {each.id: record(each, [0.01] * 7) for each in cases})
    (table,) = (table for table in run_tables(run) if table.name == "inference")
    assert [row[0] for row in table.texts] == [each.label for each in cases[:2] for _ in range(2)]


def test_long_words_of_a_table_may_be_broken_behind_punctuation_alone(tmp_path: Path) -> None:
    long = "torchvision/deeplabv3_mobilenet_v3_large@1024x2048/k21"
    records = [record(case("eager", model=model), [0.01] * 7) for model in (long, "efficientnet_b0")]
    found = html(page_of(Run(tmp_path, "t", "?", ENVIRONMENT, {each.id: each for each in records})))
    assert "torchvision/<wbr>deeplabv3_<wbr>mobilenet_<wbr>v3_<wbr>large@<wbr>1024x2048/<wbr>k21/<wbr>k10</td>" in found
    assert ">efficientnet_b0/k10</td>" in found


def test_a_page_without_an_answer_links_to_its_sections() -> None:
    read = ReadPage(html(Page("t", "s", [Section("one", "One", ["p"]), Section("two", "Two", ["p"])])))
    assert [link for link in read.attributes("href") if link.startswith("#")] == ["#one", "#two"]
    assert read.texts("details") == []


def test_a_run_without_an_accuracy_has_the_chart_of_ratios_first(tmp_path: Path) -> None:
    records = [record(case(runtime), [0.01] * 7) for runtime in ("eager", "ort")]
    page = page_of(Run(tmp_path, "t", "?", ENVIRONMENT, {each.id: each for each in records}))
    assert page.lead
    assert page.lead.chart
    assert page.lead.chart.name == "runtimes-inference"
    assert "runtimes" in [section.id for section in page.sections], "its table and words stay"
    assert [chart.name for chart in page.charts].count("runtimes-inference") == 1


def test_the_page_fetches_nothing_and_runs_only_its_own_script(read: ReadPage) -> None:
    policy = next(element.attributes["content"] for element in read.elements if "http-equiv" in element.attributes)
    scripts = [element for element in read.elements if element.tag == "script" and not element.attributes]
    assert len(scripts) == 1
    digest = base64.b64encode(sha256(scripts[0].text.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert read.attributes("src") == []
    assert all(link.startswith(("#", "data:")) for link in read.attributes("href"))
    assert not [name for element in read.elements for name in element.attributes if name.startswith("on")]


def test_every_chart_is_drawn_with_its_title_and_caption(page: Page, read: ReadPage) -> None:
    assert [chart.name for chart in page.charts] == [
        *("accuracy-cpu", "interval-widths", "runtimes-inference", "runtimes-training", "throughput", "latency"),
        *("training-step", "memory-inference", "memory-training", "start"),
    ]
    assert read.texts("figcaption") == [chart.caption for chart in page.charts]
    assert len([element for element in read.elements if element.tag == "svg"]) == len(page.charts) + 1  # raw samples


def test_charts_draw_every_measured_case_and_say_what_it_is(page: Page, drawn: dict[str, list[dict[str, Any]]]) -> None:
    widths = [row for row in drawn["interval-widths"] if "what" in row]
    assert len(widths) == 19
    assert {row["backend"] for row in widths} == {"eager/cpu", "ort/cpu"}
    assert widths[0]["what"] == "alexnet, inference, eager/cpu, batch 1: 28.0 [27.4, 28.6] ms, 35.7 images/s"
    for chart in page.charts:
        assert all(row["what"] for row in rows_of(chart) if "what" in row), chart.name


def test_the_chart_of_accuracy_has_the_front(drawn: dict[str, list[dict[str, Any]]]) -> None:
    points = {(row["model"], row["backend"]): row for row in drawn["accuracy-cpu"]}
    assert len(points) == 6
    assert [model for (model, _), row in points.items() if row["front"]] == ["mobilenet_v2"]
    assert not points["mobilenet_v2", "ort/cpu"]["dominated"]
    assert points["alexnet", "eager/cpu"]["dominated"]
    named = {key for key, row in points.items() if row["label"]}
    assert named == {("alexnet", "ort/cpu"), ("resnet18", "ort/cpu"), ("mobilenet_v2", "ort/cpu")}


def test_charts_of_ratios_have_their_intervals(drawn: dict[str, list[dict[str, Any]]]) -> None:
    ratios = [row for row in drawn["runtimes-inference"] if "what" in row]
    assert {row["series"] for row in ratios} == {"ort/cpu"}
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in ratios)
    assert [row["ratio"] for row in ratios if row["line"] == "resnet18, 8"] == [pytest.approx(2.0)]
    training = [row["ratio"] for row in drawn["runtimes-training"] if "what" in row]
    assert training == [pytest.approx(0.8), pytest.approx(0.8)]


def test_charts_by_batch_have_a_panel_for_each_model(page: Page, drawn: dict[str, list[dict[str, Any]]]) -> None:
    (throughput,) = (chart for chart in page.charts if chart.name == "throughput")
    titles = ["".join(panel["title"]["text"]) for panel in throughput.vega_lite["concat"]]
    assert titles == ["alexnet", "resnet18", "mobilenet_v2"]
    assert {row["batch"] for row in drawn["latency"]} == {1, 8}
    assert max(row["figure"] for row in drawn["latency"]) == pytest.approx(320)


def test_stacked_bars_add_up_to_the_whole(drawn: dict[str, list[dict[str, Any]]]) -> None:
    def whole(name: str, line: str) -> float:
        return float(sum(row["value"] for row in drawn[name] if row["line"] == line))

    assert whole("training-step", "resnet18, eager/cpu, 8") == pytest.approx(1.0)
    assert whole("training-step", "resnet18, ort/cpu, 8") == pytest.approx(1.25)
    assert whole("memory-inference", "resnet18, eager/cpu, 8") == pytest.approx(100)
    assert whole("start", "resnet18, ort/cpu") == pytest.approx(1.0 + 2.5 + 0.25 + 0.05)
    assert whole("start", "resnet18, eager/cpu") == pytest.approx(1.0 + 0.25 + 0.05)
    (phase, *_) = (row for row in drawn["training-step"] if row["line"] == "alexnet, eager/cpu, 8")
    assert phase["what"] == "alexnet, eager/cpu, 8: forward 280 ms of 840 ms"


def test_the_roofline_has_the_peaks_and_every_float32_case(sample: Run) -> None:
    environment = ENVIRONMENT.model_copy(update={"threads": Threads(used=(2,), usable=2)})
    records = {id_: each.model_copy(update={"environment": environment}) for id_, each in sample.records.items()}
    measured = Run(sample.folder, "t", "?", environment, records, peaks=[peaks()])
    page = run_page(measured, bound_tables(measured))
    (roofline,) = (rows_of(chart) for chart in page.charts if chart.name == "roofline")
    roof = sorted((row["intensity"], row["gflops"]) for row in roof_of(roofline))
    assert roof[1] == (pytest.approx(10.0), pytest.approx(100.0))  # 100 GFLOP/s over 10 GB/s
    assert roof[0][1] == pytest.approx(10 * roof[0][0])
    assert len(roofline) - len(roof) == 19


def roof_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "what" not in row]


def test_the_files_of_a_report(sample: Run, page: Page, golden: Golden) -> None:
    tables = run_tables(sample)
    written = write_report(sample, tables, page)
    assert written == sample.folder / "report.html"
    golden("report.md", (sample.folder / "report.md").read_text())
    golden("inference.csv", (sample.folder / "tables" / "inference.csv").read_text())
    golden("inference.tex", (sample.folder / "tables" / "inference.tex").read_text())
    for table in tables:
        parquet = pd.read_parquet(sample.folder / "tables" / f"{table.name}.parquet")
        pd.testing.assert_frame_equal(parquet, table.data.reset_index(drop=True), check_dtype=False)
    for chart in page.charts:
        assert (sample.folder / "charts" / f"{chart.name}.svg").read_text().startswith("<svg")
        assert (sample.folder / "charts" / f"{chart.name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_its_sections_in_order(page: Page) -> None:
    assert [section.id for section in page.sections] == [
        *("machine", "pick", "runtimes", "times", "batches"),
        *("training", "memory", "counts", "start", "samples"),
    ]


def test_a_run_of_nothing_but_absent_devices_has_a_page(tmp_path: Path) -> None:
    absent = record(case("eager", device="cuda"), status="unavailable", reasons=[Reason(code="no-device")])
    page = page_of(Run(tmp_path, "absent", "?", None, {absent.id: absent}))
    assert [section.id for section in page.sections] == ["machine", "times"]
    assert "1 case: 1 unavailable." in html(page)


def test_a_run_without_an_interval_has_a_page(tmp_path: Path) -> None:
    few = [record(case(runtime), [0.01, 0.011]) for runtime in ("eager", "ort")]
    shown = html(page_of(Run(tmp_path, "few", "?", None, {each.id: each for each in few})))
    assert "no significant difference in 1" in shown
    assert "10 [?]" in shown


def test_names_and_reasons_from_records_are_text_everywhere(sample: Run, page: Page) -> None:
    write_report(sample, run_tables(sample), page)
    for file in (sample.folder / "report.html", sample.folder / "report.md"):
        text = file.read_text()
        assert EVIL not in text
        assert "&lt;script" in text
    charted = Page("t", "s", [Section("id", "h", [EVIL], [*page_of(_named_evil(sample)).charts])], [EVIL])
    assert EVIL not in html(charted)
    lead = Lead([Figure(EVIL, EVIL, EVIL)], [Line(EVIL, EVIL)], None)
    assert EVIL not in html(Page(EVIL, EVIL, [], [EVIL], lead=lead))
    assert EVIL not in summary_html(Page(EVIL, EVIL, [], [EVIL], lead=lead), run_tables(sample))


def _named_evil(run: Run) -> Run:
    """The same run with its models named so that they would leave an attribute and a tag."""
    name = f'"/>{EVIL}'
    renamed = [
        each.model_copy(
            update={"case": each.case.model_copy(update={"spec": each.case.spec.model_copy(update={"model": name})})}
        )
        for each in run.records.values()
    ]
    return Run(run.folder, run.suite, run.started, run.environment, {each.id: each for each in renamed})


def test_latex_says_what_the_records_say(tmp_path: Path) -> None:
    bad = record(
        case("eager", model="100%_$&{x}\n\\input{y}"),
        status="failed",
        reasons=[Reason(code="crashed", detail="line\n\\end")],
    )
    (table,) = run_tables(Run(tmp_path, "t", "?", None, {bad.id: bad}))
    text = table_latex(table)
    assert r"100\%\_\$\&\{x\}" in text
    assert r"\input{" not in text
    assert [line for line in text.splitlines() if r"\end" in line] == [
        "% [1] failed: the process crashed: line \\end",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize("name", ["tables", "charts"])
def test_a_link_to_another_folder_is_not_written_through(sample: Run, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (sample.folder / name).symlink_to(elsewhere)
    with pytest.raises(RunFolderError, match="got a link to another place"):
        write_report(sample, [], Page("t", "s", []))
    assert list(elsewhere.iterdir()) == []


def test_links_to_other_files_are_replaced(sample: Run, page: Page, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    links = [sample.folder / name for name in ("report.html", "report.md", "tables/models.csv", "charts/start.svg")]
    for link in links:
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(precious)
    write_report(sample, run_tables(sample), page)
    assert precious.read_text() == "mine"
    assert not any(link.is_symlink() for link in links)


def test_parts_of_drawings_have_names_of_their_own(page: Page) -> None:
    text = html(page)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_every_colour_of_a_chart_has_a_dark_one(page: Page) -> None:
    for chart in page.charts:
        used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]+)"', chart.svg))
        assert used <= set(DARK), chart.name


def test_what_could_not_be_read_stands_on_the_page(sample: Run) -> None:
    told = Run(sample.folder, "t", "?", None, sample.records, unreadable=["records.jsonl: not read: line 3: <cut>"])
    assert "records.jsonl: not read: line 3: &lt;cut&gt;" in html(page_of(told))


def test_the_front_is_what_nothing_dominates(sample: Run) -> None:
    row = case_rows(list(sample.records.values()))[0]
    points = [
        Point(row, Estimate(60.0), Estimate(1.0, 0.9, 1.1)),
        Point(row, Estimate(70.0), Estimate(5.0, 4.0, 6.0)),
        Point(row, Estimate(70.0), Estimate(5.5, 5.0, 6.0)),
        Point(row, Estimate(65.0), Estimate(9.0, 8.0, 10.0)),
    ]
    assert [is_on_front(point, points) for point in points] == [True, True, False, False]
    # the third may be as fast as the second
    assert [is_dominated(point, points) for point in points] == [False, False, False, True]
    slow = Point(row, Estimate(65.0), Estimate(9.0, 6.0, 10.0))
    assert [is_dominated(slow, points[:place]) for place in (2, 3)] == [False, False], "they touch"
    assert is_dominated(slow._replace(ms=Estimate(9.0, 6.1, 10.0)), points)
    assert not is_dominated(slow._replace(ms=Estimate(9.0)), points)
    assert not is_dominated(points[3], [Point(row, Estimate(70.0), Estimate(5.0)), points[0]])


def test_samples_are_thinned_and_blocks_with_interference_marked(sample: Run) -> None:
    long = record(case("eager"), [0.01] * 6, samples=MAX_SAMPLES)
    (shown,) = samples([long]).cases
    assert (shown["count"], shown["every"]) == (6 * MAX_SAMPLES, 6)
    assert sum(len(block["ms"]) for block in shown["launches"][0]["blocks"]) <= MAX_SAMPLES + 6
    blocks = samples(sample.records.values()).cases[0]["launches"][0]["blocks"]
    assert [block["out"] for block in blocks] == [False, True, *[False] * 6]
    assert blocks[1]["why"] == "other processes: 48 % of all CPU time"


def test_the_script_reads_the_keys_that_the_samples_have(sample: Run) -> None:
    script = (TEMPLATES / "page.js").read_text()
    case_keys = samples(sample.records.values()).cases[0]
    launch_keys = case_keys["launches"][0]
    for name, keys in (("chosen", case_keys), ("launch", launch_keys), ("block", launch_keys["blocks"][0])):
        assert set(re.findall(rf"\b{name}\.(\w+)", script)) <= set(keys), name


def test_the_cases_to_pick_from_have_their_figures_with_both_ends(read: ReadPage, sample: Run) -> None:
    cells = [element for element in read.elements if element.attributes.get("data-metric") == "p50"]
    assert len(cells) == 14  # inference of three models at two batches and of one at one, in two runtimes
    assert cells[0].attributes["data-ends"] == "4.9,5,5.1"
    assert [each.attributes["name"] for each in read.elements if each.attributes.get("type") == "range"] == [
        *("p50", "accuracy", "size")  # all have the same memory
    ]


def test_names_of_points_touch_no_other_name_where_there_is_room() -> None:
    points = [(100.0, 100.0), (104.0, 103.0), (380.0, 104.0)]
    first, second, third = places(points, ["mobilenet_v2", "resnet18", "torchvision/a_long_name"], 410)
    assert first != second
    assert PLACES[third].align == "right", "it would leave the chart on the right"
    assert places(points, [None, None, None], 410) == [0, 0, 0]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.6, 1.7, [0.7, 1, 1.2, 1.5]),
        (1.0, 3.2, [1, 1.2, 1.5, 2, 3]),
        (0.3, 40, [0.5, 1, 2, 5, 10, 20]),
        (1.0, 1.0, [1]),
    ],
)
def test_ratios_have_ticks_on_both_sides_of_1(low: float, high: float, ticks: list[float]) -> None:
    assert ratio_ticks(low, high) == ticks
