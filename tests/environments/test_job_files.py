"""vertex-job.yaml and skypilot.yaml: what their own tools make of them, and what they run."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ENVIRONMENTS = Path(__file__).parents[2] / "environments"
VERTEX, SKYPILOT = ENVIRONMENTS / "vertex-job.yaml", ENVIRONMENTS / "skypilot.yaml"


def vertex(machines: int) -> dict:
    """The job's specification, for several machines without the marks before the second pool."""
    text = VERTEX.read_text()
    if machines > 1:
        pool = text[text.index("  # - machineSpec") :]
        text = text.replace(pool, re.sub(r"^  # ", "  ", pool, flags=re.MULTILINE))
    spec = yaml.safe_load(text)
    for pool in spec["workerPoolSpecs"][1:]:
        pool["replicaCount"] = machines - 1
    return spec


@pytest.mark.parametrize("machines", [1, 3])
def test_vertex_takes_its_file(machines):
    types = pytest.importorskip("google.cloud.aiplatform_v1.types")
    spec = types.CustomJobSpec.from_json(json.dumps(vertex(machines)))
    assert sum(pool.replica_count for pool in spec.worker_pool_specs) == machines
    assert spec.scheduling.strategy == types.Scheduling.Strategy.SPOT
    assert spec.scheduling.restart_job_on_worker_restart
    for pool in spec.worker_pool_specs:
        assert pool.machine_spec.accelerator_type == types.AcceleratorType.NVIDIA_TESLA_T4
        assert pool.container_spec.image_uri.startswith("pytorch/pytorch:")


def test_skypilot_takes_its_file(monkeypatch):
    sky = pytest.importorskip("sky")
    monkeypatch.chdir(ENVIRONMENTS.parent)
    task = sky.Task.from_yaml(str(SKYPILOT))
    assert task.num_nodes == 1
    assert all(resources.use_spot for resources in task.resources)
    assert "EAGER_NEXT_REGION" in str(task.to_yaml_config())


@pytest.fixture
def commands(tmp_path):
    """A PATH whose torchrun and pip only say how they were called."""
    for name in ("torchrun", "pip"):
        file = tmp_path / name
        file.write_text(f'#!/bin/bash\necho {name} "$@"\n')
        file.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


def run(script: str, path: str, **variables: str) -> list[str]:
    """What a script called, a line each."""
    environment = {**os.environ, **variables, "PATH": path}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


CLUSTER = {
    "cluster": {"workerpool0": ["first:2222"], "workerpool1": ["second:2222", "third:2222"]},
    "task": {"type": "workerpool1", "index": 1},
}


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ("", "--nnodes 1 .* --rdzv-endpoint localhost:29400 --rdzv-conf is_host=1 "),
        (json.dumps(CLUSTER), "--nnodes 3 .* --rdzv-endpoint first:2222 --rdzv-conf is_host=0 "),
        (
            json.dumps({**CLUSTER, "task": {"type": "workerpool0", "index": 0}}),
            "--nnodes 3 .* --rdzv-endpoint first:2222 --rdzv-conf is_host=1 ",
        ),
    ],
    ids=["one machine", "the last of three", "the first of three"],
)
def test_what_a_vertex_machine_runs(commands, cluster, expected):
    container = vertex(1)["workerPoolSpecs"][0]["containerSpec"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    _, called = run(container["args"][0], commands, CLUSTER_SPEC=cluster, **variables)
    assert re.match(f"torchrun {expected}", called)
    assert called.endswith(
        "-m -- relaydet train --run mine --dataset people --store gs://my-bucket/relaydet"
    )


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("Tesla T4", "pip install --quiet --editable ."),
        ("Tesla V100-SXM2-16GB", "pip install --quiet -r environments/v100.txt"),
    ],
)
def test_a_v100_gets_the_torch_that_can_drive_it(commands, tmp_path, gpu, expected):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/bash\necho {gpu}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert run(yaml.safe_load(SKYPILOT.read_text())["setup"], commands) == [expected]
    assert (ENVIRONMENTS / "v100.txt").is_file()


def test_no_extra_is_named_that_there_is_not():
    project = (ENVIRONMENTS.parent / "pyproject.toml").read_text()
    extras = set(re.findall(r"^(\w+) = \[", project.partition("optional-dependencies]")[2], re.M))
    places = [*ENVIRONMENTS.rglob("*.*"), *ENVIRONMENTS.parent.glob("docs/*.md")]
    for path in [*places, ENVIRONMENTS.parent / "README.md"]:
        text = path.read_text(errors="replace")
        named = {
            e
            for names in re.findall(r"(?:relaydet|\.)\[([\w,]+)\]", text)
            for e in names.split(",")
        }
        assert named <= extras, path


@pytest.mark.parametrize(("rank", "is_host"), [(0, 1), (1, 0)])
def test_what_a_skypilot_machine_runs(commands, rank, is_host):
    task = yaml.safe_load(SKYPILOT.read_text())
    (called,) = run(
        task["run"],
        commands,
        SKYPILOT_NODE_RANK=str(rank),
        SKYPILOT_NUM_NODES="2",
        SKYPILOT_NUM_GPUS_PER_NODE="4",
        SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
        **task["envs"],
    )
    assert re.search(
        f"--nnodes 2 --nproc-per-node 4 .*--rdzv-endpoint 10.0.0.1:29400 .*is_host={is_host} ",
        called,
    )
    assert called.endswith(
        "-m -- relaydet train --run mine --dataset people --store gs://my-bucket/relaydet"
    )
