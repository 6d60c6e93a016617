"""The notebooks, headless as papermill runs them, on a tiny demo set."""

import json
from pathlib import Path

import nbformat
import papermill
import pytest

from relaydet.data.demo import write_demo

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def run(name: str, out: Path, **parameters) -> str:
    """Execute a notebook in its own folder and return the text that it printed."""
    executed = papermill.execute_notebook(
        NOTEBOOKS / f"{name}.ipynb",
        out / f"{name}.ipynb",
        parameters=parameters,
        cwd=NOTEBOOKS,
        progress_bar=False,
    )
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def pictures(path: Path) -> int:
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    keys = ("name", "format", "annotations", "images", "licence")
    sources = write_demo(folder / "scenes", sizes=(8, 4, 4))
    return folder, [{key: getattr(source, key) for key in keys} for source in sources]


def test_the_notebooks_one_after_the_other(demo):
    folder, (street, search, inhouse) = demo
    store = str(folder / "store")
    merged = run("1_merge_data", folder, SOURCES=[street, search], STORE=store)
    assert "merged" in merged
    # Samples of two sources, the offset of one, two charts, and the browser as a still picture.
    assert pictures(folder / "1_merge_data.ipynb") == 6
    run("1_merge_data", folder, DATASET="held", SOURCES=[inhouse], STORE=store, SPLIT={"b": 0.5})
    assert (folder / "store/datasets/held_b/annotations.json").is_file()
    run("1_merge_data", folder, DATASET="demo_heldout", SOURCES=[inhouse], STORE=store)

    short = {"STORE": store, "EPOCHS": 1, "IMAGE_SIZE": 64, "BATCH_SIZE": 4}
    assert "paused at step 1" in run("2_train", folder, MAX_MINUTES=0, **short)
    assert "is done" in run("2_train", folder, **short)
    assert "is done" in run("2_train", folder, STORE=store)

    evaluated = run("3_evaluate", folder, STORE=store)
    assert "AP50" in evaluated
    # Curves, sizes, errors, calibration, false alarms, and detections beside the truth.
    assert pictures(folder / "3_evaluate.ipynb") == 6
    report = folder / "store/comparisons/demo"
    assert (report / "report.html").stat().st_size > 10_000
    metrics = json.loads((report / "comparison.json").read_text())["runs"]["demo"]
    assert 0 <= metrics["AP50"] <= 1

    timed = run("4_compare_gpus", folder, STORE=store, STEPS=2, IMAGE_SIZE=64, BATCH_SIZES=[2])
    assert "12 epochs of 82,299" in timed
    assert pictures(folder / "4_compare_gpus.ipynb") == 1


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_nbconvert_makes_a_script_of_it(path):
    exporter = pytest.importorskip("nbconvert").ScriptExporter()
    code, resources = exporter.from_filename(str(path))
    assert resources["output_extension"] == ".py"
    compile(code, path.stem, "exec")


def test_a_mistake_fails_the_notebook_with_one_sentence(demo, tmp_path):
    folder, _ = demo
    with pytest.raises(papermill.PapermillExecutionError) as failure:
        run("2_train", tmp_path, STORE=str(folder / "store"), DATASET="nothing")
    assert failure.value.ename == "RelayError"
    assert failure.value.traceback == [f"RelayError: {failure.value.evalue}"]
