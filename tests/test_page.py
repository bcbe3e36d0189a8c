"""Pages from fixed records, compared whole with tests/golden (`pytest --renew` writes those anew)."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cnnbench.errors import RunFolderError
from cnnbench.records.run_folder import Run
from cnnbench.report.charts import DARK
from cnnbench.report.files import table_latex, write_report
from cnnbench.report.html import Page, Section, html, summary_html
from cnnbench.report.samples import MOST, samples
from cnnbench.report.sections import run_page
from cnnbench.report.sections.accuracy import front
from cnnbench.report.tables import run_tables
from tests.records import case, record
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


def without(text: str, *tags: str) -> str:
    """HTML without what stands between tags: drawings, styles and scripts have files and tests of their own."""
    for tag in tags:
        text = re.sub(rf"<{tag}\b(?![^>]*json)[^>]*>.*?</{tag}>", f"<{tag}/>", text, flags=re.DOTALL)
    return re.sub(r"sha256-[^']+", "sha256-", text)


def test_the_whole_page(page: Page, golden: Golden) -> None:
    golden("report.html", without(html(page), "svg", "style", "script"))


def test_the_charts_say_what_the_records_say(page: Page, golden: Golden) -> None:
    specs: dict[str, Any] = {}
    for chart in page.charts:
        spec = chart.vega_lite
        specs[chart.name] = {key: value for key, value in spec.items() if key not in ("$schema", "config")}
    golden("charts.json", json.dumps(specs, indent=1, ensure_ascii=False) + "\n")


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
        *("machine", "times", "accuracy", "runtimes", "why", "batches"),
        *("training", "memory", "counts", "start", "samples"),
    ]


def test_a_run_of_nothing_but_absent_devices_has_a_page(tmp_path: Path) -> None:
    absent = record(case("eager", device="cuda"), status="unavailable", reasons=["none"])
    page = page_of(Run(tmp_path, "absent", "?", None, {absent.id: absent}))
    assert [section.id for section in page.sections] == ["machine", "times"]
    assert "1 case: 1 unavailable." in html(page)


def test_a_run_without_an_interval_has_a_page(tmp_path: Path) -> None:
    few = [record(case(runtime), [0.01, 0.011]) for runtime in ("eager", "ort")]
    shown = html(page_of(Run(tmp_path, "few", "?", None, {each.id: each for each in few})))
    assert "not told apart in 1" in shown
    assert "10 [?]" in shown


def test_names_and_reasons_from_records_are_text_everywhere(sample: Run, page: Page) -> None:
    write_report(sample, run_tables(sample), page)
    for file in (sample.folder / "report.html", sample.folder / "report.md"):
        text = file.read_text()
        assert EVIL not in text
        assert "&lt;script" in text
    charted = Page("t", "s", [Section("id", "h", [EVIL], [*page_of(_named_evil(sample)).charts])], [EVIL])
    assert EVIL not in html(charted)
    assert EVIL not in summary_html(EVIL, EVIL, [EVIL], run_tables(sample))


def _named_evil(run: Run) -> Run:
    """The same run with its models named so that they would leave an attribute and a tag."""
    name = f'"/>{EVIL}'
    records = {
        each.id: each.model_copy(
            update={"case": each.case.model_copy(update={"spec": each.case.spec.model_copy(update={"model": name})})}
        )
        for each in run.records.values()
    }
    return Run(run.folder, run.suite, run.started, run.environment, records)


def test_latex_says_what_the_records_say(tmp_path: Path) -> None:
    bad = record(case("eager", model="100%_$&{x}\n\\input{y}"), status="failed", reasons=["line\n\\end"])
    (table,) = run_tables(Run(tmp_path, "t", "?", None, {bad.id: bad}))
    text = table_latex(table)
    assert r"100\%\_\$\&\{x\}" in text
    assert r"\input{" not in text
    assert [line for line in text.splitlines() if r"\end" in line] == [
        "% [1] failed: line \\end",
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
    links = [sample.folder / name for name in ("report.html", "report.md", "tables/models.csv", "charts/sharpness.svg")]
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


def test_the_front_is_what_nothing_beats() -> None:
    frame = pd.DataFrame(
        {
            "top1": [60.0, 70.0, 70.0, 65.0],
            "ms": [1.0, 5.0, 5.5, 9.0],
            "ms_low": [0.9, 4.0, 5.0, 8.0],
            "ms_high": [1.1, 6.0, 6.0, 10.0],
        }
    )
    found = front(frame)
    assert found["front"].tolist() == [True, True, False, False]
    assert found["beaten"].tolist() == [False, False, False, True]  # the third may be as fast as the second


def test_samples_are_thinned_and_disturbed_turns_marked(sample: Run) -> None:
    long = record(case("eager"), [0.01] * 6, samples=MOST)
    (shown,) = samples([long]).cases
    assert (shown["count"], shown["every"]) == (6 * MOST, 6)
    assert sum(len(block["ms"]) for block in shown["launches"][0]["blocks"]) <= MOST + 6
    first = samples(sample.records.values()).cases[0]
    assert [block["out"] for block in first["launches"][0]["blocks"]] == [False, True, *[False] * 6]
    assert first["launches"][0]["blocks"][1]["why"] == "others used 48 % of the CPUs"
