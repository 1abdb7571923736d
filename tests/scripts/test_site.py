"""The site that scripts/docs has built, in a browser, from a disk and without a network."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

INDEX = Path(__file__).parents[2] / "build" / "site" / "index.html"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(not INDEX.exists(), reason="needs a site: scripts/docs")
@pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt install chromium, or set CHROMIUM to the path of one"
)
def test_a_site_on_a_disk_can_be_searched():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(200_000)  # other tests may be slow
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(INDEX.as_uri())
        page.get_by_role("button", name="Search").first.click()
        page.get_by_role("combobox").fill("generations")
        page.get_by_role("listbox").locator("a[href*='guides/teachers.html']").first.click()
        page.wait_for_url("**/guides/teachers.html*")
        assert all(url.startswith(("file:", "about:")) for url in asked)
        browser.close()
