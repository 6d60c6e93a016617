"""The files in environments/: each is explained, and asks for what it says."""

from __future__ import annotations

import re
from importlib.metadata import metadata

import pytest
import yaml
from matrix.generations import GENERATIONS
from requirement_files import COLAB, ENVIRONMENTS, TOP, colab_versions, lines_of, requirements_of

FILES = sorted(path.name for path in ENVIRONMENTS.iterdir() if path.suffix in (".txt", ".yml"))
README = (ENVIRONMENTS / "README.md").read_text()
TABLE = [line for line in README.splitlines() if line.startswith("|")]
KEPT = {"torch", "torchvision", "numpy", "ipywidgets"}
"""What Colab and Kaggle ship, and nobody may move there."""
RUNTIMES = (
    *("Colab", "Colab Enterprise", "Kaggle, T4 x2", "old P100", "GCP, T4", "V100", "A100", "H100"),
    *("K80", "Mac", "CPU", "CI"),
)
needs_freeze = pytest.mark.skipif(
    not COLAB.is_file(), reason=f"../shared/facts/{COLAB.name} is not there"
)


def test_the_readme_has_a_row_for_every_file_and_a_file_for_every_row():
    linked = set(re.findall(r"\]\(([\w.-]+\.(?:txt|yml))\)", "\n".join(TABLE)))
    assert linked == set(FILES)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_readme_answers_for(runtime):
    first_cells = [line.split("|")[1] for line in TABLE]
    assert any(re.search(rf"\b{re.escape(runtime)}\b", cell) for cell in first_cells)


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_at_its_top_what_it_is_for(name):
    assert re.match(r"# \w.{20,}", (ENVIRONMENTS / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_a_file_installs_the_package_by_a_path_and_extras_that_exist(name):
    # pip reads a path from where it runs: the top folder, or for conda the file's own.
    start = ENVIRONMENTS if name.endswith(".yml") else TOP
    for line in lines_of(ENVIRONMENTS / name):
        if found := re.fullmatch(r"-e ([./]+)\[([\w,]+)\]", line):
            assert (start / found[1]).resolve() == TOP
            assert set(found[2].split(",")) <= set(metadata("relaydet").get_all("Provides-Extra"))
        else:
            assert not line.startswith("-")


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
def test_the_matrix_installs_the_torch_it_names(generation):
    wanted = requirements_of(ENVIRONMENTS / generation.file)
    pins = [*map(str, wanted.values()), *generation.pins]
    torches = [pin for pin in pins if pin.startswith("torch==")]
    assert torches == ([] if generation.name == "newest" else [f"torch=={generation.name}"])
    assert len([pin for pin in pins if pin.startswith("torchvision==")]) == len(torches)


def test_every_file_that_pins_torch_is_in_the_matrix():
    pinned = {name for name in FILES if "torch" in requirements_of(ENVIRONMENTS / name)}
    assert pinned == {"k80.txt", "p100.txt", "v100.txt"}
    assert pinned <= {generation.file for generation in GENERATIONS}


def test_the_gcp_notebook_becomes_a_kernel_of_jupyterlab():
    environment = yaml.safe_load((ENVIRONMENTS / "gcp-notebook.yml").read_text())
    assert environment["name"] == "relaydet"
    assert {"pip", "ipykernel"} <= {
        part for part in environment["dependencies"] if part == str(part)
    }


@pytest.mark.parametrize("name", ["colab.txt", "kaggle.txt"])
def test_nothing_is_asked_that_a_hosted_runtime_must_keep(name):
    assert not KEPT & set(requirements_of(ENVIRONMENTS / name))


def test_kaggle_lacks_what_colab_lacks_but_papermill():
    colab = requirements_of(ENVIRONMENTS / "colab.txt")
    kaggle = requirements_of(ENVIRONMENTS / "kaggle.txt")
    assert {name: wanted for name, wanted in colab.items() if name != "papermill"} == kaggle


@needs_freeze
@pytest.mark.parametrize("wanted", requirements_of(TOP / "requirements.txt").values(), ids=str)
def test_colab_has_it_or_its_file_brings_it(wanted):
    brought = requirements_of(ENVIRONMENTS / "colab.txt")
    there = colab_versions().get(wanted.name)
    if wanted.name in brought:
        assert there is None
        assert brought[wanted.name] == wanted
    else:
        assert there
        assert wanted.specifier.contains(there)
