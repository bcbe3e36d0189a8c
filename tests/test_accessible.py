"""Every page that is written is usable with a keyboard and a screen reader, as far as axe-core can tell."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

import cnnbench
from cnnbench.history import store
from cnnbench.history.overview import overview
from cnnbench.report import divergence_page, inspection
from cnnbench.report.history_page import page_of
from cnnbench.report.html import html
from cnnbench.runner.tasks.diverge import diverge, parse_contender
from cnnbench.suite.case import ModelSpec
from tests.conftest import ROOT
from tests.test_browser import browser, long_file
from tests.test_history import entry
from tests.test_inspect import inspected

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser", "long_file"]

pytestmark = pytest.mark.slow
KINDS = ("run", "compare", "history", "diverge", "inspect")


@pytest.fixture(scope="module")
def pages(long_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(long_file, folder / "run.html")
    compared = cnnbench.compare(*sorted((ROOT / "reports").glob("threads-*/*-thread*")))
    store.add(folder / "history", [entry(number, log_ratio=0.2 * (number == 5)) for number in range(1, 10)])
    found = diverge(
        ModelSpec.checked("cnn1d", (256,), 5), [parse_contender(run) for run in ("ort", "eager/amp-bf16")], 2, 10**9
    )
    for kind, text in {
        "compare": html(compared.page),
        "history": html(page_of(overview(folder / "history", "*"))),
        "diverge": divergence_page.page(found),
        "inspect": inspection.page(inspected((3, 9, 9), (4, 3, 3, 3), (2, 4, 9, 9), 2)),
    }.items():
        (folder / f"{kind}.html").write_text(text, encoding="utf-8")
    return folder


def serious(page: "Page") -> list[Any]:
    """What axe-core finds to hinder people seriously or wholly: which rule, where, and what to do."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python here")
    return [
        (rule["id"], node["html"][:200], node["failureSummary"])
        for rule in axe.Axe().run(page).response["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize(("look", "width"), [("light", 1280), ("dark", 360)])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing_serious_on_any_page(
    browser: "Browser", pages: Path, kind: str, look: Literal["light", "dark"], width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=look)
    page.goto((pages / f"{kind}.html").as_uri())
    if kind == "run":
        page.locator("#all").click()
    assert serious(page) == []
    page.close()


@pytest.mark.parametrize("kind", ["history", "diverge"])
def test_on_a_phone_the_words_of_a_wide_chart_are_legible_and_an_interval_stands_below_its_figure(
    browser: "Browser", pages: Path, kind: str
) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 900})
    page.goto((pages / f"{kind}.html").as_uri())
    scales = "all => all.map(svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"
    assert min(page.locator(".chart.wide svg").evaluate_all(scales)) > 0.6  # words of 10 pixels and more are drawn
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    lefts = page.locator(".cards td .interval").evaluate_all(
        "all => all.map(each => each.getBoundingClientRect().left - each.parentElement.getBoundingClientRect().left)"
    )
    assert all(left > 60 for left in lefts)
    assert bool(lefts) == (kind == "history")
    page.close()


def test_axe_finds_a_picture_without_words_and_text_that_is_too_faint(browser: "Browser", tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text("<html lang=en><title>a</title><main><img src=data:,><p style='color: #ccc'>faint</p></main>")
    page = browser.new_page()
    page.goto(file.as_uri())
    assert {rule for rule, *_ in serious(page)} == {"image-alt", "color-contrast"}
    page.close()
