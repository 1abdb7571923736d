"""The report in a browser: Chromium, which `apt install chromium` brings on Debian and Ubuntu."""

import contextlib
import dataclasses
import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from distill.studies import read, report
from tests.studies.made_up import CONFUSED, LAST, LAYERS, RELIABLE, with_cells, write_study

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt install chromium, or set CHROMIUM to the path of one"
)
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study = read(write_study(folder, title=NASTY, notes=[NASTY], primary=[["alone", "distilled"]]))

    def recorded(cell):
        return dataclasses.replace(cell, reliability=RELIABLE, confusion=CONFUSED, layers=LAYERS)

    study = with_cells(study, **dict.fromkeys(list(LAST)[1:], recorded))
    (folder / "report.html").write_text(report.html(study), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, path, *, width=1200, **options):
    """A page that has drawn its charts; whatever it complains of, or asks from elsewhere, is an error."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.set_default_timeout(200_000)  # other tests may be slow
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    if options.get("java_script_enabled", True):
        page.wait_for_function(
            "[...document.querySelectorAll('figure[data-name]:not([hidden]) .chart')]"
            ".every((chart) => chart.querySelector('.vega-embed svg.marks'))"
        )
    yield page
    page.close()
    assert said == []


def names(page, table):
    rows = page.locator("table", has=page.locator("caption", has_text=table)).locator("tbody tr:visible")
    return rows.locator("th").all_inner_texts()


def test_tables_sort_and_filter(browser, path):
    with opened(browser, path) as page:
        assert page.title() == NASTY
        assert names(page, "Test scores") == list(LAST)
        table = page.locator("table", has=page.locator("caption", has_text="Test scores"))
        heading = table.locator("thead th").nth(2)
        heading.get_by_role("button").click()
        ascending = sorted(LAST, key=lambda arm: LAST[arm].mean())
        assert heading.get_attribute("aria-sort") == "descending"
        assert names(page, "Test scores") == ascending[::-1]
        heading.get_by_role("button").press("Enter")
        assert heading.get_attribute("aria-sort") == "ascending"
        assert names(page, "Test scores") == ascending
        # What is missing comes last, either way; 12.4 µs is less than 1.23 ms.
        times = page.locator("table", has=page.locator("caption", has_text="Size and cost"))
        for first in ("teacher", "distilled"):
            times.get_by_role("button", name="latency").click()
            assert names(page, "Size and cost")[0] == first
        page.get_by_label("Filter rows").first.fill("120 LABELS distilled")
        assert names(page, "Test scores") == ["distilled-unlabelled"]
        assert page.locator(".filter output").first.inner_text() == "1 of 7 rows"


def test_exploratory_verdicts_open_by_keyboard_and_on_paper(browser, path):
    with opened(browser, path) as page:
        verdict = page.locator("details.exploratory li").first
        assert verdict.is_hidden()
        page.locator("details.exploratory summary").press("Enter")
        assert verdict.is_visible()
    with opened(browser, path) as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details.exploratory li").first.is_visible()


def test_charts_answer_to_the_pointer_and_to_the_keyboard(browser, path):
    with opened(browser, path) as page:
        tip = page.locator("#vg-tooltip-element")
        point = page.get_by_role("img", name="distilled: accuracy")
        point.hover()
        tip.wait_for()
        assert "96.07" in tip.inner_text()
        page.mouse.move(5, 5)
        tip.wait_for(state="hidden")
        point.focus()
        tip.wait_for()
        assert "274k" in tip.inner_text()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(tuple(LAST))
        # Another cost is another picture.
        page.get_by_role("radio", name="latency").check()
        page.locator('figure[data-name="pareto-latency"] .vega-embed svg.marks').wait_for()
        assert page.locator('figure[data-name="pareto-macs"]').is_hidden()
        assert (
            page.get_by_role("img", name="distilled: accuracy")
            .get_attribute("aria-label")
            .endswith("latency 12.4 µs, dominated by no arm")
        )


def test_curves_are_switched_by_arm(browser, path):
    with opened(browser, path) as page:
        figure = page.locator('figure[data-name="curves-score"]')
        lines = figure.locator(".chart svg g.mark-line path")
        assert lines.count() == 4
        figure.get_by_role("checkbox", name="smoothing").uncheck()
        page.wait_for_function(
            "document.querySelectorAll('figure[data-name=\"curves-score\"] g.mark-line path').length === 3"
        )
        figure.locator(".chart svg.marks").hover()
        tip = page.locator("#vg-tooltip-element")
        tip.wait_for()
        assert "epoch" in tip.inner_text()


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_in_both_colours(browser, path, width, scheme):
    with opened(browser, path, width=width, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("figure[data-name]").evaluate_all(
            "figures => figures.every((one) => one.hidden || one.querySelector('svg').clientWidth <= innerWidth)"
        )
        ink = page.locator("figure .chart svg text").first.evaluate("one => getComputedStyle(one).fill")
        assert ink == {"light": "rgb(27, 27, 31)", "dark": "rgb(236, 236, 241)"}[scheme]


def test_without_scripts_everything_is_there_still(browser, path):
    with opened(browser, path, java_script_enabled=False) as page:
        assert (
            page.locator("figure[data-name] .chart svg:visible").count()
            == page.locator("figure[data-name]").count()
        )
        assert page.locator("input:visible").count() == 0


@pytest.mark.slow
def test_on_paper_it_is_dark_on_white_without_what_cannot_be_pressed(browser, path, tmp_path):
    with opened(browser, path, color_scheme="dark") as page:
        page.emulate_media(media="print")
        colors = "const style = getComputedStyle(document.body); [style.backgroundColor, style.color]"
        assert page.evaluate(colors) == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
        assert page.locator("nav").is_hidden()
        assert page.locator(".filter").first.is_hidden()
        assert page.pdf(path=tmp_path / "report.pdf").startswith(b"%PDF")
