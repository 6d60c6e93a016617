"""What each rank of tests/training/test_team.py does: `torchrun on_ranks.py JOB FOLDER`.

What a rank finds goes to FOLDER/JOB-RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from relaydet.config import TrainConfig
from relaydet.data.loader import training_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.errors import RankLostError, RelayError
from relaydet.model import build_model, recipe_of
from relaydet.runtime.device import choose_device
from relaydet.storage.store import open_store
from relaydet.training.checkpoint import Checkpoint
from relaydet.training.loop import build_optimizer
from relaydet.training.meeting import joined
from relaydet.training.members import plan_of, share_plan
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.restore import Restored
from relaydet.training.steps import run_steps
from relaydet.training.team import Team

CONFIG = TrainConfig(
    dataset="few",
    model="small",
    epochs=2,
    batch_size=8,
    learning_rate=1e-3,
    image_size=64,
    workers=0,
)


def words(team: Team, _folder: Path) -> dict:
    """Everything that ranks can say to each other."""
    own = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    own[0].grad = torch.full((3,), float(team.rank + 1))
    if team.rank != 1:
        own[1].grad = torch.ones(2, 2).T * 10**team.rank
    weights_OIHW = torch.arange(24.0).view(2, 3, 2, 2)
    layout = torch.channels_last if team.rank == 1 else torch.contiguous_format
    own.append(torch.nn.Parameter(torch.zeros_like(weights_OIHW)))
    own[2].grad = weights_OIHW.clone(memory_format=layout)
    team.sum_gradients(team.pack_gradients(own))
    state = {"model": {"w": torch.tensor([1.5, 2.5])}, "optimizer": {"state": {0: {"step": 3}}}}
    checkpoint = Checkpoint(7, state, {"sha256": "x"}, "there")
    plan = share_plan(
        team, plan_of(TrainConfig("planned"), checkpoint, None) if team.leads else None
    )
    planned = plan.checkpoint
    return {
        "plan": [
            *(plan.config.run, planned.step, planned.state["model"]["w"].tolist()),
            *(planned.state["optimizer"]["state"][0]["step"], planned.where),
            share_plan(team, None),
        ],
        "first": team.share_first(lambda: f"made on {team.rank}"),
        "all": team.gather(team.rank * 10),
        "any": [team.any(team.rank == 2), team.any(False)],
        "largest": team.largest([team.rank, -team.rank]),
        "total": team.total([1, team.rank]),
        "gradients": [p.grad.flatten().tolist() for p in own if p.grad is not None],
        "stop": [team.why_stop("tired" if team.rank == 1 else None)],
    }


def train(
    team: Team, folder: Path, first: int = 0, last: int = 6, short_of: int = -1, size: int = 1
) -> dict:
    """Some optimizer steps, from the state that is in the folder to the state left there.

    Args:
        team: the ranks.
        folder: has the store and the state.
        first: step to start from.
        last: step to end before.
        short_of: the rank whose memory runs out once, in the second forward pass.
        size: images of a micro-batch.
    """
    torch.manual_seed(0)
    saved = load_dataset(open_store(folder / "store"), "few")
    samples = training_samples(saved.dataset, open_sources(saved))
    # Frozen norms: those that train see a rank's own images.
    built = build_model(CONFIG.model, ["person"], "none", CONFIG.image_size, frozen=True)
    optimizer = build_optimizer(built.model.train(), recipe_of(CONFIG.model))
    state = folder / "state.pt"
    if first:
        kept = torch.load(state, weights_only=True)
        built.model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
    if team.rank == short_of:
        _run_short_of_memory(built.model, at=1)
    micro_batch, said = MicroBatch(size), []
    trained = Restored(built, optimizer, None, micro_batch)
    device = choose_device("cpu", "float32")
    steps = run_steps(replace(CONFIG), samples, trained, device, team, first, said.append)
    losses = [step.loss for _, step in zip(range(last - first), steps, strict=False)]
    if team.leads:
        torch.save({"model": built.model.state_dict(), "optimizer": optimizer.state_dict()}, state)
    return {"losses": losses, "micro_batch": micro_batch.size, "said": said}


def _run_short_of_memory(model: torch.nn.Module, at: int) -> None:
    passes = []

    def hook(*_args: object) -> None:
        passes.append(1)
        if len(passes) == at + 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (a test)")

    model.roi_heads.register_forward_pre_hook(hook)


def mistake(team: Team, _folder: Path) -> dict:
    """Rank 1 makes one; what the others learn of it."""
    if team.rank == 1:
        raise RelayError("the image is broken; mend it.")
    return _lost(team)


def death(team: Team, _folder: Path) -> dict:
    """Rank 1 dies without a word."""
    if team.rank == 1:
        os._exit(0)
    return _lost(team)


def silence(team: Team, _folder: Path) -> dict:
    """Rank 1 hangs."""
    if team.rank == 1:
        time.sleep(12)
        os._exit(0)
    return _lost(team)


def _lost(team: Team) -> dict:
    began = time.monotonic()
    try:
        team.largest([1.0])
    except RankLostError as error:
        return {"lost": str(error), "told": error.told, "seconds": time.monotonic() - began}
    return {}


def main(job: str, folder: Path, *arguments: str) -> None:
    rank = int(os.environ.get("RANK", 0))
    jobs = {"words": words, "train": train, "mistake": mistake, "death": death, "silence": silence}
    found: dict = {}
    try:
        with joined(answer_minutes=0.1) as team:
            found = jobs[job](team, folder, *map(int, arguments))
            (folder / f"{job}-{rank}.json").write_text(json.dumps(found))
            if "lost" in found:
                os._exit(0)  # the connections end with the process
    except RelayError:
        pass


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
