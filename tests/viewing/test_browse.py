"""The browser's widgets, used as a person would: choose, click, look; without a front end."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from itertools import pairwise

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image as PillowImage

from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.findings import Finding
from relaydet.data.images import open_images
from relaydet.viewing.browse import WIDGET_VIEW, browse

FOUND = [Finding("box-clamped", "warning", "b", "a box reaches out", "clamped", "4.png")]


@pytest.fixture
def folder(tmp_path):
    for number in range(1, 7):
        PillowImage.new("RGB", (40 + number, 20)).save(tmp_path / f"{number}.png")
    return tmp_path


def dataset() -> Dataset:
    """Three images of source a with a person each, three of b with a large car each."""
    images = [
        Image(n, f"{'a' if n < 4 else 'b'}/{n}.png", 40, 20, source="a" if n < 4 else "b")
        for n in range(1, 7)
    ]
    annotations = [
        Annotation(n, n, 1 if n < 4 else 2, (2.0, 2.0, 9.0, 9.0), 81.0 if n < 4 else 9999.0)
        for n in range(1, 7)
    ]
    return Dataset(images, annotations, [Category(1, "person"), Category(2, "car")])


@pytest.fixture
def browser(folder):
    place = open_images(str(folder))
    return browse(dataset(), {"a": place, "b": place}, FOUND, title="A <title>")


def shown(browser) -> PillowImage.Image:
    return PillowImage.open(io.BytesIO(browser.controls.picture.value))


def labels(control) -> list[str]:
    return [label for label, _ in control.options]


def test_it_starts_at_the_first_image(browser):
    controls = browser.controls
    assert (browser.row, controls.counter.value) == (0, "1 of 6 images")
    assert shown(browser).format == "JPEG"
    assert shown(browser).width == 800
    assert "1.png" in controls.text.value
    assert labels(controls.source) == ["all", "a (3)", "b (3)"]
    assert labels(controls.category) == ["any", "person", "car"]
    assert labels(controls.size) == ["any", "small", "medium", "large"]
    assert labels(controls.code) == ["with or without", "box-clamped (1)"]


def test_next_and_previous_go_round(browser):
    controls = browser.controls
    pictures = [controls.picture.value]
    for expected in (2, 3, 4, 5, 6, 1):
        controls.next.click()
        assert controls.counter.value == f"{expected} of 6 images"
        assert f"{expected}.png" in controls.text.value
        pictures.append(controls.picture.value)
    assert pictures[0] == pictures[-1]
    assert all(before != after for before, after in pairwise(pictures))
    controls.previous.click()
    assert controls.counter.value == "6 of 6 images"


def test_random_moves_and_is_the_same_every_time(browser, folder):
    place = open_images(str(folder))
    again = browse(dataset(), {"a": place, "b": place})
    walks = []
    for one in (browser, again):
        walk = [one.row]
        for _ in range(40):
            one.controls.random.click()
            walk.append(one.row)
        walks.append(walk)
    assert walks[0] == walks[1]
    assert set(walks[0]) == set(range(6))
    assert all(before != after for before, after in pairwise(walks[0]))


@pytest.mark.parametrize(
    ("control", "label", "rows"),
    [
        ("source", "b (3)", [3, 4, 5]),
        ("category", "person", [0, 1, 2]),
        ("size", "large", [3, 4, 5]),
        ("size", "medium", []),
        ("code", "box-clamped (1)", [3]),
    ],
)
def test_each_filter_filters(browser, control, label, rows):
    widget = getattr(browser.controls, control)
    widget.label = label
    assert browser.rows.tolist() == rows
    total = len(rows)
    assert browser.controls.counter.value == f"{min(total, 1)} of {total} images"
    assert browser.controls.next.disabled == (total < 2)
    widget.value = 0
    assert browser.rows.tolist() == list(range(6))


def test_filters_add_up_and_the_image_stays_where_it_can(browser):
    controls = browser.controls
    for _ in range(4):
        controls.next.click()
    controls.source.value = 2
    assert (browser.row, controls.counter.value) == (4, "2 of 3 images")
    controls.code.value = 1
    assert (browser.row, controls.counter.value) == (3, "1 of 1 images")
    assert "a box reaches out" in controls.text.value
    controls.category.value = 1
    assert (browser.row, controls.counter.value) == (None, "0 of 0 images")
    assert controls.picture.layout.display == "none"
    for button in (controls.next, controls.previous, controls.random):
        button.click()
    assert browser.row is None
    controls.category.value = controls.code.value = controls.source.value = 0
    assert (browser.row, controls.counter.value) == (3, "4 of 6 images")
    assert controls.picture.layout.display is None


def test_an_image_that_cannot_be_read_says_why_and_the_browser_goes_on(browser, folder):
    (folder / "2.png").write_bytes(b"<no image>")
    controls = browser.controls
    controls.next.click()
    assert "2.png: the image cannot be read" in controls.text.value
    assert controls.picture.layout.display == "none"
    controls.next.click()
    assert "3.png" in controls.text.value
    assert controls.picture.layout.display is None


@pytest.mark.parametrize("data", [Dataset([], [], []), Dataset(dataset().images, [], [])])
def test_a_dataset_with_little_in_it(data, folder):
    place = open_images(str(folder))
    browser = browse(data, {"a": place, "b": place})
    assert browser.controls.category.disabled
    assert browser.controls.code.disabled
    assert "image/png" in browser._repr_mimebundle_()


def test_it_is_a_widget_and_a_picture_at_once(browser):
    bundle = browser._repr_mimebundle_(include=None, exclude=None)
    assert set(bundle) == {WIDGET_VIEW, "image/png", "text/plain"}
    assert set(bundle[WIDGET_VIEW]) == {"version_major", "version_minor", "model_id"}
    sheet = PillowImage.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert sheet.format == "PNG"
    assert sheet.width > 1000
    assert bundle["text/plain"] == "A <title>: a browser over 6 images of 2 sources."


def test_without_ipywidgets_it_is_the_sheet_alone(browser, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    place = open_images(str(folder))
    plain = browse(dataset(), {"a": place, "b": place})
    assert plain.controls is None
    bundle = plain._repr_mimebundle_()
    assert set(bundle) == {"image/png", "text/plain"}
    assert "pip install ipywidgets" in bundle["text/plain"]
    sheets = [
        PillowImage.open(io.BytesIO(base64.b64decode(b["image/png"])))
        for b in (bundle, browser._repr_mimebundle_())
    ]
    assert sheets[0].height > sheets[1].height, "the sentence is on the picture"


def test_where_nobody_can_click_it_is_the_sheet_alone_and_asks_for_nothing(folder):
    place = open_images(str(folder))
    plain = browse(dataset(), {"a": place, "b": place}, clickable=False)
    assert plain.controls is None
    bundle = plain._repr_mimebundle_()
    assert set(bundle) == {"image/png", "text/plain"}
    assert bundle["text/plain"] == "a browser over 6 images of 2 sources."


def test_the_package_does_not_import_ipywidgets():
    code = "import sys, relaydet.viewing.browse; sys.exit('ipywidgets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_users_are_no_html(folder):
    place = open_images(str(folder))
    browser = browse(dataset(), {"a": place, "b": place}, title="<b>&")
    assert not re.search(r"<b>&(?!\w)", browser._box.children[0].value)


@pytest.mark.slow
def test_an_executed_notebook_keeps_both(folder):
    """A kernel and its comms, as papermill runs them; no front end."""
    code = f"""
from relaydet.data.dataset import Category, Dataset, Image
from relaydet.data.images import open_images
from relaydet.viewing.browse import browse
image = Image(1, "a/1.png", 41, 20, source="a")
browse(Dataset([image], [], [Category(1, "person")]), {{"a": open_images({str(folder)!r})}})
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    assert set(output.data) == {WIDGET_VIEW, "image/png", "text/plain"}
    assert PillowImage.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).width > 300
    state = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    assert state[output.data[WIDGET_VIEW]["model_id"]]["model_name"] == "VBoxModel"
