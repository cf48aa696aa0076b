"""A real browser without a network, for the tests that open pages in one."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
QUIET = (
    "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip
DRAWN = "document.documentElement.dataset.figuresDrawn === document.documentElement.dataset.figures"

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="NO CHROMIUM: pages were NOT opened in a browser; apt-get install chromium"
)


@contextmanager
def launched():
    """Chromium, headless, for as long as the block lasts."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield opened
        opened.close()


class Window:
    """A page without network that writes down what it asks for and what goes wrong."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(offline=True, **{"viewport": {"width": 1280, "height": 900}} | options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)  # for machines that do much else
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))

    def open(self, path):
        self.page.goto(path.as_uri())
        return self.page

    def draw_all(self):
        for box in self.page.locator("[data-figure]").all():
            box.scroll_into_view_if_needed()
        self.page.wait_for_function(DRAWN)

    def style(self, selector, name):
        return self.page.locator(selector).first.evaluate(f"node => getComputedStyle(node)['{name}']")
