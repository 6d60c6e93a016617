"""Does merged data make a better detector? Each source alone and all together, set side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from relaydet.config import EvaluateConfig, StudyConfig, TrainConfig, check_name, public
from relaydet.data.saved import annotations_name, load_dataset
from relaydet.errors import RelayError
from relaydet.evaluation.on_dataset import OnDataset
from relaydet.evaluation.report import columns, signed
from relaydet.evaluation.significance import Difference, Interval
from relaydet.jobs.evaluate import evaluate
from relaydet.jobs.fleet import work_off
from relaydet.runtime.attached import first_having
from relaydet.runtime.auto_store import find_store
from relaydet.runtime.detect import detect
from relaydet.storage.store import Store
from relaydet.training.run_files import RunFiles, as_json
from relaydet.viewing.comparison import misses_picture
from relaydet.viewing.evaluation_charts import study_chart
from relaydet.viewing.pictures import Picture, png

ALL = "all"
"""The training set of all sources together."""
_SIDE_BY_SIDE = ("precision_recall", "sizes", "errors")
"""Pictures of the comparison that set all runs side by side."""
_TOLD = ("AP50", "AP", "APs", "ARs")


@dataclass(frozen=True)
class StudyRun:
    """One run of a study."""

    training_set: str
    """Name of a source, or all."""
    config: TrainConfig


@dataclass(frozen=True)
class StudyResult:
    """What a study came to."""

    runs: list[StudyRun]
    unfinished: list[str]
    """Names of the runs that are not trained to the end yet."""
    table: str
    """A row a training set and batch size; empty while runs are unfinished."""
    pictures: dict[str, Picture]
    where: str
    """Path of report.html."""

    def __str__(self) -> str:
        if self.unfinished:
            left = ", ".join(self.unfinished)
            return f"The study is paused; run it again to go on. Not done yet: {left}"
        return f"{self.table}\n\nThe report is {self.where}"


def study(config: StudyConfig, say: Callable[[str], None] = print) -> StudyResult:
    """Train every run of a study, or go on with those that are not done, and compare them.

    Any number of sessions may work on one study: each run is trained under its lease, and what
    another session trains is left to it.

    Args:
        config: which data, how long, at which batch sizes.
        say: takes each line that tells the user what happens.

    Raises:
        RelayError: something in the configuration or the data has to be mended.
    """
    check_name("STUDY", config.study)
    check_name("DATASET", config.dataset)
    check_name("HELD_OUT", config.held_out)
    if not config.batch_sizes:
        raise RelayError("BATCH_SIZES is empty; name at least one, such as 8.")
    store = find_store(config.store, say, must_exist=True)
    config = replace(config, store=store.location)  # decided once for all runs
    runs = _plan(store, config)
    say(f"study {config.study!r}: {len(runs)} runs of {runs[0].config.epochs} epochs")
    unfinished = work_off(store, [run.config for run in runs], config.max_minutes, say)
    if unfinished:
        result = StudyResult(runs, unfinished, "", {}, "")
    else:
        result = _compared(store, runs, config, say)
    say(str(result))
    return result


def _plan(store: Store, config: StudyConfig) -> list[StudyRun]:
    """All runs, those of the first batch size first."""
    home = first_having(store, detect(), annotations_name(config.dataset))
    saved = load_dataset(home, config.dataset)
    sources = sorted({image.source or "" for image in saved.dataset.images})
    if len(sources) < 2:
        raise RelayError(
            f"Dataset {config.dataset!r} has one source, {', '.join(sources)}; a study compares"
            " several: merge two or more (1_merge_data)."
        )
    if ALL in sources:
        raise RelayError(
            f"Dataset {config.dataset!r} has a source called {ALL!r}, as all together are called"
            " here; merge it under another name."
        )
    runs = [
        StudyRun(name, _run(config, name, batch_size))
        for batch_size in config.batch_sizes
        for name in (*sources, ALL)
    ]
    for run in runs:
        check_name("STUDY with the name of a source", run.config.run)
    return runs


def _run(config: StudyConfig, training_set: str, batch_size: int) -> TrainConfig:
    return TrainConfig(
        run=f"{config.study}-{training_set}-b{batch_size}",
        dataset=config.dataset,
        include=() if training_set == ALL else (training_set,),
        store=config.store,
        model=config.model,
        weights=config.weights,
        epochs=config.epochs,
        batch_size=batch_size,
        image_size=config.image_size,
        seed=config.seed,
        max_minutes=config.max_minutes,
        device=config.device,
        precision=config.precision,
        images=config.images,
    )


def _compared(
    store: Store, runs: Sequence[StudyRun], config: StudyConfig, say: Callable[[str], None]
) -> StudyResult:
    names = tuple(run.config.run for run in runs)
    evaluated = evaluate(
        EvaluateConfig(
            runs=names,
            dataset=(config.held_out,),
            store=config.store,
            report=config.study,
            draws=config.draws,
            device=config.device,
            images=config.images,
        ),
        say,
    )
    (on,) = evaluated.datasets
    rows = [_row(run, on, store) for run in runs]
    table = "\n\n".join([_table(rows), _gains_table(_gains(runs, on))])
    picture = Picture(
        png(study_chart(rows, f"AP50 on {config.held_out}")),
        f"AP50 on {config.held_out} with 95 % intervals, by training set and batch size.",
    )
    pictures = {"study": picture, **_misses(runs, on, config.batch_sizes[0])}
    folder = f"comparisons/{config.study}"
    for name, drawn in pictures.items():
        store.write(f"{folder}/{name}.png", drawn.png)
    store.write(f"{folder}/study.json", as_json({"rows": rows, "config": asdict(public(config))}))
    side_by_side = {name: evaluated.pictures[name] for name in _SIDE_BY_SIDE}
    return StudyResult(list(runs), [], table, {**pictures, **side_by_side}, evaluated.where)


def _misses(runs: Sequence[StudyRun], on: OnDataset, batch_size: int) -> dict[str, Picture]:
    """What training on one source misses and training on all finds, and the other way round."""
    named = {r.training_set: r.config.run for r in runs if r.config.batch_size == batch_size}
    return {
        f"study_misses_{alone}": misses_picture(on, named[alone], named[ALL])
        for alone in named
        if alone != ALL
    }


def _row(run: StudyRun, on: OnDataset, store: Store) -> dict[str, Any]:
    """One line of the study's table, as study.json has it."""
    status = RunFiles(store, run.config.run).status() or {}
    intervals = on.significance.intervals[run.config.run] if on.significance else {}
    metrics = next(e.metrics for e in on.runs if e.run == run.config.run)
    told = {
        name: asdict(intervals.get(name, Interval(metrics[name], metrics[name], metrics[name])))
        for name in _TOLD
        if metrics[name] >= 0
    }
    return {
        "training_set": run.training_set,
        "batch_size": run.config.batch_size,
        "steps": status.get("step"),
        "run": run.config.run,
        **told,
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    names = [name for name in _TOLD if any(name in row for row in rows)]
    lines = [["trained on", "batch", "steps", *(f"{name} with 95 % interval" for name in names)]]
    for row in rows:
        told = [str(Interval(**row[name])) if name in row else "-" for name in names]
        lines.append([row["training_set"], str(row["batch_size"]), str(row["steps"]), *told])
    return columns(lines)


def _gains(runs: Sequence[StudyRun], on: OnDataset) -> list[tuple[str, int, Difference]]:
    """What all sources together have more than each alone, at each batch size."""
    if on.significance is None:
        return []
    by_pair = {(d.first, d.second, d.measure): d for d in on.significance.differences}
    gains = []
    for merged in (run for run in runs if run.training_set == ALL):
        size = merged.config.batch_size
        for alone in runs:
            if alone.training_set != ALL and alone.config.batch_size == size:
                pair = (alone.config.run, merged.config.run)
                found = [by_pair.get((*pair, measure)) for measure in _TOLD]
                gains += [(alone.training_set, size, d) for d in found if d]
    return gains


def _gains_table(gains: Sequence[tuple[str, int, Difference]]) -> str:
    if not gains:
        return ""
    lines = [["all, against", "batch", "of", "gain with 95 % interval", "all is"]]
    for name, size, d in gains:
        lines.append([name, str(size), d.measure, signed(d.delta), d.verdict])
    return columns(lines)
