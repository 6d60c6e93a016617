"""A notebook in a browser's tab: what a person does there, and what it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from browser.copies import code_cells, failures_in
from browser.install import NO_BROWSER, find_browser
from browser.lab import Lab

WINDOW = {"width": 1400, "height": 1000}
PATIENCE_SECONDS = 60
expect.set_options(timeout=PATIENCE_SECONDS * 1000)
# Some code cell has run later than before, and none is waiting: all have, or one has failed.
# JupyterLab puts the cells into the page bit by bit.
ALL_RUN = """([cells, before]) => {
    const panel = [...document.querySelectorAll('.jp-NotebookPanel')].find(p => p.offsetParent);
    const prompts = [...panel.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')]
        .map(prompt => prompt.textContent);
    return prompts.length === cells && !prompts.some(text => text.includes('*')) &&
        prompts.some(text => Number(text.replace(/\\D/g, '')) > before);
}"""
TWO_FRAMES = """() => new Promise(done =>
    requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window.

    Raises:
        RuntimeError: there is none on this machine.
    """
    path = find_browser()
    if path is None:
        raise RuntimeError(NO_BROWSER)
    # Root may not use its sandbox, and in a container /dev/shm is small.
    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


class NotebookPage:
    """One notebook, opened."""

    def __init__(self, browser: Browser, lab: Lab, path: Path, pictures: Path) -> None:
        """Open it in a light theme without the side bar, and wait for its kernel.

        Args:
            browser: where.
            lab: the JupyterLab that has it.
            path: the notebook.
            pictures: folder for screenshots.
        """
        self._path, self._pictures = path, pictures
        self.page: Page = browser.new_page(viewport=WINDOW, color_scheme="light")
        self.page.set_default_timeout(PATIENCE_SECONDS * 1000)
        self.page.goto(lab.address(path))
        self.panel = self.page.locator(".jp-NotebookPanel:visible")
        self.panel.locator(".jp-CodeCell").first.wait_for()
        # Until then "Run All Cells" asks which kernel to take.
        self._wait_until_idle()
        self._menu("View", "File Browser")
        expect(self.page.locator("#jp-left-stack")).to_be_hidden()

    def start_all(self) -> int:
        """Choose "Run All Cells"; returns the highest number of a cell that ran before."""
        prompts = self.panel.locator(".jp-CodeCell .jp-InputArea-prompt").all_text_contents()
        before = max((int(n) for p in prompts for n in re.findall(r"\d+", p)), default=0)
        self._menu("Run", "Run All Cells")
        return before

    def wait_for_all(self, before: int, seconds: float) -> None:
        """Wait until all cells have run after that number, or one has failed."""
        cells = len(code_cells(self._path))
        self.page.wait_for_function(ALL_RUN, arg=[cells, before], timeout=seconds * 1000)
        self._wait_until_idle()

    def press(self, title: str) -> None:
        """Press a button of the notebook's toolbar, by the text that it shows on hovering."""
        self.panel.locator(f'.jp-NotebookPanel-toolbar jp-button[title^="{title}"]').click()

    def cell_of(self, code: str) -> Locator:
        """The one cell whose code contains this."""
        has_code = self.page.locator(".jp-InputArea-editor", has_text=code)
        return self.panel.locator(".jp-CodeCell").filter(has=has_code)

    def output_of(self, code: str) -> Locator:
        """What the one cell shows whose code contains this."""
        return self.cell_of(code).locator(".jp-OutputArea")

    def failures(self) -> list[str]:
        """Save the notebook; returns each error in it, and the code of each cell that did not run.

        The page shows errors as it shows anything that is written to stderr.
        """
        self.press("Save")
        expect(self.page.locator(".lm-TabBar-tab.jp-mod-dirty")).to_have_count(0)
        return failures_in(self._path)

    def shoot(self, name: str, at: Locator | None = None) -> None:
        """Take a screenshot, of the window scrolled to something."""
        if at is not None:
            at.evaluate("element => element.scrollIntoView({block: 'start'})")
            # What comes into view is laid out only then.
            self.page.evaluate(TWO_FRAMES)
        self.page.screenshot(path=self._pictures / f"{name}.png", animations="disabled")

    def _wait_until_idle(self) -> None:
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle")

    def _menu(self, name: str, entry: str) -> None:
        self.page.locator(".lm-MenuBar-item", has_text=name).click()
        label = self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{entry}$"))
        self.page.locator(".lm-Menu-item:visible").filter(has=label).click()
