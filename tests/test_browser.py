"""The page in a real browser, offline: Debian's Chromium, driven by Playwright."""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnnbench.report.bounds import bound_tables
from cnnbench.report.charts import DARK, PAPER
from cnnbench.report.html import html
from cnnbench.report.sections import run_page
from cnnbench.report.tables import run_tables
from tests.peaks import peaks
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
    page.locator("#all").click()
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


def test_sections_are_closed_until_they_are_opened_or_linked_to(browser: "Browser", file: Path) -> None:
    page = browser.new_page()
    page.goto(file.as_uri())
    assert page.locator("main > section > details[open]").count() == 0
    assert page.locator("#answer").is_visible()
    assert not page.locator(INFERENCE).is_visible()
    page.locator("#times summary").press("Enter")
    assert page.locator(INFERENCE).is_visible()
    page.goto(f"{file.as_uri()}#samples")
    page.locator("#samples details[open]").wait_for()
    page.close()


def test_the_sliders_judge_every_case_by_its_whole_interval(page: "Page") -> None:
    def verdicts() -> dict[tuple[str, str], str]:
        rows = page.locator(".chooser tbody tr:not([hidden])")
        cells = [row.locator("td").all_inner_texts() for row in rows.all()]
        return {(model, backend): verdict for verdict, model, backend, *_ in cells}

    assert set(verdicts().values()) == {"meets"}
    accuracy = page.locator(".chooser input[name=accuracy]")
    accuracy.fill("60")  # of the way from 56.5 % to 72.2 %: 65.9 %
    found = verdicts()
    assert found["mobilenet_v2", "ort/cpu"] == found["resnet18", "eager/cpu"] == "meets"
    assert found["alexnet", "ort/cpu"] == "fails"
    page.locator(".chooser input[name=p50]").fill("25")  # of 5 to 320 ms: 14.1 ms
    assert [model for (model, _), verdict in verdicts().items() if verdict == "meets"] == ["mobilenet_v2"] * 2
    assert page.locator(".chooser .caption").inner_text().startswith("2 meets, 0 may, 0 unknown, 4 fails.")
    page.locator(".chooser select").select_option("8")
    assert ("lenet5", "ort/cpu") in verdicts()
    assert verdicts()["lenet5", "ort/cpu"] == "unknown", "its accuracy is not known"


LONG = (
    "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn/heads",
    "my_company_models.vision.experimental.backbones:build_the_wide_one@1024x2048/c4/k1000/w:best-of-third-run.safetensors",
)
WIDTHS = (360, 768, 1280, 1920)
OVERFLOWS = """() => {
  const found = [];
  const name = (element) => `${element.tagName}.${element.getAttribute("class") || ""} ` +
    `${(element.textContent || "").trim().replace(/\\s+/g, " ").slice(0, 60)}`;
  for (const element of document.querySelectorAll("body *:not(svg *):not(script):not(option)")) {
    const box = element.getBoundingClientRect();
    if (!box.width || !element.checkVisibility() || getComputedStyle(element).display === "inline") continue;
    if (element.scrollWidth > element.clientWidth + 1) found.push(`too wide: ${name(element)}`);
    if (box.right > innerWidth + 1 || box.left < -1) found.push(`outside: ${name(element)}`);
  }
  const range = document.createRange();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, cell = node.parentElement.closest("td, th");
    for (const word of cell && cell.checkVisibility() ? node.data.matchAll(/[A-Za-z0-9]+/g) : []) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (tops.size > 1) found.push(`broken: ${word[0]} of ${name(cell)}`);
    }
  }
  for (const svg of document.querySelectorAll("figure.chart svg")) {
    const box = svg.getBoundingClientRect();
    if (!svg.checkVisibility()) continue;
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent).map((text) =>
      [text, text.getBoundingClientRect()]);
    for (const [text, at] of texts) {
      if (at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1) {
        found.push(`cut off: ${svg.closest("figure").id} ${text.textContent}`);
      }
    }
    texts.forEach(([one, a], place) => texts.slice(place + 1).forEach(([other, b]) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 0.4 * Math.min(a.height, b.height)) {
        found.push(`overlap: ${svg.closest("figure").id} ${one.textContent} / ${other.textContent}`);
      }
    }));
  }
  return found;
}"""


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with the longest names there are, with peaks and with every table."""
    run = sample_run(tmp_path_factory.mktemp("long"))
    renamed = dict(zip(("alexnet", "resnet18"), LONG, strict=True))
    records = []
    for each in run.records.values():
        spec = each.case.spec
        name = renamed.get(spec.model, spec.model)
        records.append(
            each.model_copy(
                update={
                    "case": each.case.model_copy(
                        update={"threads": 2, "spec": spec.model_copy(update={"model": name, "weights": None})}
                    )
                }
            )
        )
    run = dataclasses.replace(run, records={each.id: each for each in records}, peaks=[peaks()])
    file = run.folder / "report.html"
    file.write_text(html(run_page(run, [*run_tables(run), *bound_tables(run)])), encoding="utf-8")
    return file


def settled(page: "Page") -> list[str]:
    """What overflows when the page's own script has fitted tables and charts into their places."""
    found: list[str] = page.evaluate(OVERFLOWS)
    ends_s = time.monotonic() + 10
    while found and time.monotonic() < ends_s:
        page.wait_for_timeout(100)
        found = page.evaluate(OVERFLOWS)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("look", ["light", "dark", "print"])
@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_is_cut_off_hidden_or_under_another_at_any_width(
    browser: "Browser", long_file: Path, width: int, look: str
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    page.emulate_media(color_scheme="dark" if look == "dark" else "light")
    page.goto(long_file.as_uri())
    assert settled(page) == []
    page.locator("#all").click()
    page.emulate_media(media="print" if look == "print" else "screen")
    assert settled(page) == []
    headings = page.locator(f"{INFERENCE} th")
    cells = page.locator(f"{INFERENCE} tbody tr:not([hidden])").first.locator("td")
    assert cells.count() == headings.count()
    assert all(cell.is_visible() for cell in cells.all())
    context.close()


@pytest.mark.slow
def test_what_is_too_wide_is_found(browser: "Browser", tmp_path: Path) -> None:
    file = tmp_path / "wide.html"
    file.write_text(
        "<p style='width: 5rem; overflow: hidden; white-space: nowrap'>this text is cut off at its right side</p>"
        "<figure class=chart id=c><svg width=100 height=20><text x=50 y=15>it leaves the picture</text>"
        "<text x=50 y=15>and runs through</text></svg></figure>"
        "<table><td style='max-width: 3rem; overflow-wrap: anywhere'>normalisation</table>"
    )
    page = browser.new_page()
    page.goto(file.as_uri())
    found = page.evaluate(OVERFLOWS)
    assert {line.split(":")[0] for line in found} >= {"too wide", "cut off", "overlap", "broken"}
    page.close()


@pytest.mark.slow
def test_the_page_is_below_three_megabytes(long_file: Path) -> None:
    assert long_file.stat().st_size < 3e6


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
    assert not page.locator("#all").is_visible()
    assert not page.locator(f"{INFERENCE} form").is_visible()


@pytest.mark.slow
def test_a_wide_screen_has_what_columns_mean_beside_their_table(browser: "Browser", file: Path) -> None:
    def sides(width: int) -> "tuple[float, float]":
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(f"{file.as_uri()}#times")
        page.locator(f"{INFERENCE} .legend").wait_for()
        assert settled(page) == []
        right, below = page.locator(INFERENCE).evaluate(
            """table => {
              const box = (part) => table.querySelector(part).getBoundingClientRect();
              const of = box(".scroll"), text = box(".legend");
              return [text.left - of.right, text.top - of.bottom];
            }"""
        )
        page.close()
        return right, below

    right, below = sides(1920)
    assert right > 0 > below
    right, below = sides(768)
    assert right < 0 <= below
