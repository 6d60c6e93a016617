"""Notebook 1 and 2 in JupyterLab: run all, press what there is to press, stop, go on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: make test-browser does")

from playwright.sync_api import expect

from browser.copies import lay_out, set_parameters
from browser.lab import serve
from browser.page import NotebookPage, chromium
from relaydet.config import MergeConfig
from relaydet.jobs.merge import merge

pytestmark = pytest.mark.browser

MERGE_SECONDS = 240
TRAIN_SECONDS = 120
COUNTER = re.compile(r"^([\d,]+) of ([\d,]+) images$")
PROGRESS = re.compile(r"training demo: .*\b(\d+)/\d+ \[")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Folder for screenshots: RELAYDET_SCREENSHOTS, else pytest's own."""
    folder = Path(os.environ.get("RELAYDET_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"screenshots are in {folder}")
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    lay_out(root)
    with serve(root, tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def open_notebook(lab, browser, pictures):
    """Opens a notebook by its name, its parameters set; the last screenshot tells how it ended."""
    opened = {}

    def start(name: str, **parameters) -> NotebookPage:
        path = lab.root / "notebooks" / f"{name}.ipynb"
        set_parameters(path, **parameters)
        opened[name] = NotebookPage(browser, lab, path, pictures)
        return opened[name]

    yield start
    for name, notebook in opened.items():
        notebook.shoot(f"{name}_at_the_end")
        notebook.page.close()


class BrowserWidget:
    """The widget of relaydet that notebook 1 ends with."""

    def __init__(self, output) -> None:
        self.box = output.locator(".widget-vbox").first
        self.counter = self.box.locator(".widget-label", has_text=COUNTER)
        self.picture = self.box.locator("img")

    def choose(self, name: str, position: int) -> str:
        """Choose in a filter; returns the words of that choice, whose spaces do not break."""
        choice = self.box.locator(".widget-dropdown").filter(has_text=name).locator("select")
        choice.select_option(index=position)
        return choice.locator("option").nth(position).text_content()

    def press(self, name: str) -> None:
        self.box.get_by_role("button", name=name).click()

    def place(self) -> tuple[int, int]:
        """What the counter says: this image, and how many there are."""
        found = COUNTER.match(self.counter.text_content().replace(",", ""))
        return int(found[1]), int(found[2])


def test_notebook_1_runs_and_its_browser_answers_every_button(open_notebook, tmp_path):
    notebook = open_notebook("1_merge_data", STORE=str(tmp_path / "store"))
    notebook.wait_for_all(notebook.start_all(), MERGE_SECONDS)
    assert notebook.failures() == []
    widget = BrowserWidget(notebook.output_of("notebook.browse("))
    expect(widget.counter).to_be_visible()
    first, total = widget.place()
    assert first == 1
    notebook.shoot("1_merged", notebook.output_of("notebook.merge("))
    notebook.shoot("1_pictures", notebook.output_of("notebook.show("))

    before = widget.picture.get_attribute("src")
    widget.press("Next")
    expect(widget.counter).to_have_text(f"2 of {total} images")
    expect(widget.picture).not_to_have_attribute("src", before)
    widget.press("Previous")
    expect(widget.counter).to_have_text(f"1 of {total} images")
    widget.press("Random")
    expect(widget.counter).not_to_have_text(f"1 of {total} images")

    source = widget.choose("Source", 1)
    name, of_source = re.fullmatch(r"(.+)\s\(([\d,]+)\)", source).groups()
    expect(widget.counter).to_have_text(re.compile(rf"^\d+ of {of_source} images$"))
    expect(widget.box).to_contain_text(f"of {name},")
    assert int(of_source.replace(",", "")) < total
    notebook.shoot("1_browser", notebook.cell_of("notebook.browse("))
    assert notebook.failures() == []


def test_notebook_2_stops_at_the_stop_button_and_goes_on(open_notebook, tmp_path):
    store = tmp_path / "store"
    merge(MergeConfig(store=str(store)), say=lambda line: None)
    notebook = open_notebook("2_train", STORE=str(store), EPOCHS=30, IMAGE_SIZE=64)
    said = notebook.output_of("notebook.train(")

    before = notebook.start_all()
    expect(said).to_contain_text(PROGRESS, timeout=TRAIN_SECONDS * 1000)
    notebook.shoot("2_training", said)
    paused = stop(notebook, said, before, store)
    notebook.shoot("2_paused", said)

    before = notebook.start_all()
    resuming = re.compile(rf"resuming at step {paused} of \d+")
    expect(said).to_contain_text(resuming, timeout=TRAIN_SECONDS * 1000)
    expect(said).to_contain_text(PROGRESS, timeout=TRAIN_SECONDS * 1000)
    notebook.shoot("2_resumed", said)
    assert stop(notebook, said, before, store) > paused


def stop(notebook: NotebookPage, said, before: int, store: Path) -> int:
    """Press the stop button while it trains, see it pause; returns the step that it paused at."""
    notebook.press("Interrupt the kernel")
    expect(said).to_contain_text("paused at step", timeout=TRAIN_SECONDS * 1000)
    notebook.wait_for_all(before, TRAIN_SECONDS)  # the cells after it run as well
    assert notebook.failures() == []
    status = json.loads((store / "runs/demo/status.json").read_text())
    assert status["state"] == "paused"
    expect(said).to_contain_text(f"paused at step {status['step']} of {status['total_steps']}")
    return status["step"]
