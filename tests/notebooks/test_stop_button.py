"""The stop button of a notebook: a real kernel is interrupted in mid-training, and goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from relaydet.config import MergeConfig
from relaydet.data.demo import write_demo
from relaydet.jobs.merge import merge

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "2_train.ipynb"


@pytest.fixture
def kernel():
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(NOTEBOOK.parent))
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def cells(**parameters) -> list[str]:
    """The code of notebook 2 up to training, with parameters set as papermill sets them."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    training = next(source for source in code if "notebook.train(" in source)
    return [code[0], f"{code[1]}\n{given}", training]


def printed(client, code: str, interrupt=None) -> str:
    """Run a cell to its end and return what it printed; raises where it fails."""
    said = []
    reply = client.execute_interactive(
        f"{code}\n",
        timeout=120,
        output_hook=lambda message: (
            said.append(message["content"].get("text", "")),
            interrupt and interrupt("".join(said)),
        ),
    )
    assert reply["content"]["status"] == "ok", reply["content"]
    return "".join(said)


@pytest.mark.slow
def test_the_stop_button_saves_and_run_all_goes_on(tmp_path, kernel):
    manager, client = kernel
    street, search, _ = write_demo(tmp_path / "scenes", sizes=(40, 10, 2))
    merge(MergeConfig("demo", (street, search), ("person",), str(tmp_path)), say=lambda _: None)
    first, parameters, training = cells(
        STORE=str(tmp_path), EPOCHS=30, IMAGE_SIZE=64, BATCH_SIZE=4, CHECKPOINT_MINUTES=0.05
    )
    printed(client, first)
    printed(client, parameters)
    pressed = []

    def press(said: str) -> None:
        if "checkpoint" in said or "training demo" in said:
            if not pressed:
                time.sleep(1)
                manager.interrupt_kernel()
            pressed.append(said)

    stopped = printed(client, training, press)
    assert pressed, "training said nothing while it ran"
    assert "paused at step" in stopped
    assert "stopped by SIGINT" in stopped
    assert "more session" in stopped
    status = json.loads((tmp_path / "runs/demo/status.json").read_text())
    assert status["state"] == "paused"
    assert status["sessions_left"] >= 1
    printed(client, parameters.replace("MAX_MINUTES = None", "MAX_MINUTES = 0"))
    again = printed(client, training)
    assert f"resuming at step {status['step']} of" in again
