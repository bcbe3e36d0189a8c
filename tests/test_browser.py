"""The page in a real browser, offline: Debian's Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnnbench.report.charts import DARK, PAPER
from cnnbench.report.html import html
from cnnbench.report.sections import run_page
from cnnbench.report.tables import run_tables
from tests.sample_run import EVIL, sample_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
INFERENCE = "#table-inference"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = sample_run(tmp_path_factory.mktemp("run"))
    file = run.folder / "report.html"
    file.write_text(html(run_page(run, run_tables(run))), encoding="utf-8")
    return file


@pytest.fixture
def page(browser: "Browser", file: Path) -> "Iterator[Page]":
    """The page, opened; at the end nothing has been said on the console and nothing asked for but the file itself."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    troubles: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert troubles == []
    assert requests == [file.as_uri()]


def column(page: "Page", table: str, name: str) -> list[str]:
    """The words of the rows that are shown, in one column."""
    place = page.locator(f"{table} th").all_inner_texts()
    index = [words.split(" ↕")[0].strip() for words in place].index(name)
    return page.locator(f"{table} tbody tr:not([hidden]) td:nth-child({index + 1})").all_inner_texts()


def figures(words: list[str]) -> list[float]:
    return [float(word.split(" ")[0].replace(",", "")) for word in words if word != "–"]


def test_a_heading_sorts_by_the_numbers_behind_it_and_empty_cells_come_last(page: "Page") -> None:
    before = figures(column(page, INFERENCE, "ms"))
    assert before != sorted(before)
    heading = page.locator(f"{INFERENCE} th[data-column=ms] button")
    heading.click()
    words = column(page, INFERENCE, "ms")
    assert figures(words) == sorted(before)
    assert words[-1] == "–"
    heading.click()
    words = column(page, INFERENCE, "ms")
    assert figures(words) == sorted(before, reverse=True)
    assert words[-1] == "–"
    assert page.locator(f"{INFERENCE} th[aria-sort=descending]").count() == 1


def test_a_heading_sorts_words(page: "Page") -> None:
    page.locator(f"{INFERENCE} th[data-column=model] button").click()
    models = column(page, INFERENCE, "model")
    assert models[-1] == "resnet18"
    assert models.index("alexnet") < models.index("lenet5") < models.index("mobilenet_v2")


def test_filters_leave_the_rows_that_fit_and_tell_how_many(page: "Page") -> None:
    rows = len(column(page, INFERENCE, "model"))
    page.locator(f"{INFERENCE} input[type=search]").fill("mobilenet ort")
    assert set(column(page, INFERENCE, "model")) == {"mobilenet_v2"}
    assert column(page, INFERENCE, "backend") == ["ort/cpu", "ort/cpu"]
    assert page.locator(f"{INFERENCE} output").inner_text() == f"2 of {rows + 1} rows"
    page.locator(f"{INFERENCE} select[data-column=batch]").select_option("8")
    assert column(page, INFERENCE, "batch") == ["8"]
    page.locator(f"{INFERENCE} input[type=search]").fill("no such thing")
    assert column(page, INFERENCE, "model") == []


def test_cases_that_could_not_run_here_are_shown_when_asked_for(page: "Page") -> None:
    assert "eager/cuda" not in column(page, INFERENCE, "backend")
    page.locator(f"{INFERENCE} .absent input").check()
    assert "eager/cuda" in column(page, INFERENCE, "backend")


def test_what_is_no_result_is_struck_out_with_its_reason_below(page: "Page") -> None:
    struck = page.locator("#table-training tr.struck")
    assert struck.count() == 1
    cell = struck.locator("td").first
    assert "line-through" in cell.evaluate("cell => getComputedStyle(cell).textDecorationLine")
    notes = page.locator("#table-training .notes").inner_text()
    assert "invalid: the outputs differ from the float64 reference: it computes something else" in notes


def test_a_name_that_is_a_script_is_text(page: "Page") -> None:
    assert any(EVIL in model for model in column(page, INFERENCE, "model"))
    assert page.locator("script:not([type])").count() == 1


def test_every_chart_is_drawn_and_says_what_its_marks_are(page: "Page") -> None:
    charts = page.locator("figure.chart")
    assert charts.count() == 10
    for chart in charts.all():
        box = chart.locator("svg").bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 50
    point = page.locator("#chart-accuracy-cpu path[aria-label^='mobilenet_v2, inference, ort/cpu']").first
    point.hover()
    tip = page.locator("#tip")
    assert tip.inner_text().startswith("mobilenet_v2, inference, ort/cpu, batch 1: 5.0")
    page.mouse.move(0, 0)
    assert not tip.is_visible()


def test_the_raw_samples_of_any_case_are_drawn_in_the_order_of_time(page: "Page") -> None:
    choice, dots = page.locator(".samples select"), page.locator(".samples circle")
    assert dots.count() == 16
    assert page.locator(".samples circle.out").count() == 2  # one block of eight had interference
    across = [float(x) for dot in dots.all() if (x := dot.get_attribute("cx"))]
    assert across == sorted(across)
    choice.select_option(label="lenet5/inference/eager/cpu/fp32/b8")
    assert dots.count() == 80
    assert "80 samples in 8 blocks" in page.locator(".samples p.caption").inner_text()


def test_on_a_phone_only_tables_and_charts_scroll_sideways(page: "Page") -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_dark_system_gets_a_dark_page_and_dark_charts(page: "Page") -> None:
    page.emulate_media(color_scheme="dark")
    background = "element => getComputedStyle(element).backgroundColor"
    fill = "element => getComputedStyle(element).fill"
    dark = "rgb({}, {}, {})".format(*bytes.fromhex(DARK[PAPER][1:]))
    assert page.locator("body").evaluate(background) == dark
    assert page.locator(".chart svg > rect").first.evaluate(fill) == dark


def test_paper_gets_a_light_page_without_controls(page: "Page") -> None:
    page.emulate_media(color_scheme="dark", media="print")
    assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert not page.locator(f"{INFERENCE} form").is_visible()
