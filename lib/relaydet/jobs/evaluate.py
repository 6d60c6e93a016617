"""Evaluate detectors on datasets, and set them side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from relaydet.config import EvaluateConfig, check_name, parse_images
from relaydet.data.loader import evaluation_samples
from relaydet.data.saved import SavedDataset, annotations_name, load_dataset, open_sources
from relaydet.errors import RelayError
from relaydet.evaluation.analysis import as_facts, pairs_found
from relaydet.evaluation.detectors import Detector, is_run, made_on, open_detector
from relaydet.evaluation.on_dataset import Evaluated, OnDataset, evaluate_on
from relaydet.evaluation.report import Section, differences_table, metrics_table, report_page
from relaydet.evaluation.significance import Significance
from relaydet.runtime.attached import first_having
from relaydet.runtime.auto_store import find_store
from relaydet.runtime.detect import Runtime, detect
from relaydet.runtime.torch_state import own_torch_state
from relaydet.storage.cache import tell_cache
from relaydet.storage.store import Store
from relaydet.training.export import facts_name
from relaydet.training.run_files import as_json
from relaydet.training.settings import differ_in_seed_alone
from relaydet.viewing.comparison import comparison_pictures
from relaydet.viewing.pictures import Picture, for_page
from relaydet.viewing.progress import bar, progress

_PAIRS = 3
"""How many pairs of runs a sentence names."""


@dataclass(frozen=True)
class EvaluateResult:
    """What `evaluate` found."""

    datasets: list[OnDataset]
    table: str
    """The metrics of all detectors, and which is better, as text."""
    pictures: dict[str, Picture]
    """By name: curves, sizes, errors, misses side by side, detections beside ground truth."""
    where: str
    """Path of report.html."""

    @property
    def runs(self) -> list[Evaluated]:
        """Every detector on every dataset."""
        return [run for on in self.datasets for run in on.runs]

    def __str__(self) -> str:
        return f"{self.table}\n\nThe report is {self.where}"


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = print) -> EvaluateResult:
    """Predict, score, compare and report.

    Args:
        config: which detectors, on which datasets.
        say: takes each line that tells the user what happens.

    Raises:
        RelayError: a run without a model, a dataset that is not there, categories without
            anything in common, results of another dataset.
    """
    with own_torch_state():
        return _evaluate(config, say)


def _evaluate(config: EvaluateConfig, say: Callable[[str], None]) -> EvaluateResult:
    _check(config)
    store, runtime = find_store(config.store, say, must_exist=True), detect()
    tell_cache(say)
    saved = [_dataset(store, runtime, name) for name in config.dataset]
    for given in config.runs:
        _check_origin(given, saved)
    detectors = [open_detector(run, _home(store, runtime, run)) for run in config.runs]
    _check_names(detectors)
    datasets = []
    for data in saved:
        images = parse_images(config.images, data.locations)
        samples = evaluation_samples(data.dataset, open_sources(data, images, bar=bar))
        datasets.append(evaluate_on(store, data, samples, detectors, config, progress, say))
    result = _reported(store, config, datasets, _seed_note(detectors))
    say(str(result))
    return result


def _check(config: EvaluateConfig) -> None:
    if not config.runs:
        raise RelayError("RUNS is empty; name at least one trained run.")
    if not config.dataset:
        raise RelayError("DATASET is empty; name the dataset to evaluate on.")
    for name in config.dataset:
        check_name("DATASET", name)
    check_name("REPORT", config.report)
    if config.batch_size < 1:
        raise RelayError(f"BATCH_SIZE {config.batch_size}: take at least 1.")
    if config.draws < 0:
        raise RelayError(f"DRAWS {config.draws}: take 0 for no intervals, or 1000.")


def _dataset(store: Store, runtime: Runtime, name: str) -> SavedDataset:
    return load_dataset(first_having(store, runtime, annotations_name(name)), name)


def _home(store: Store, runtime: Runtime, given: str) -> Store:
    """Where a run is: in the store, or in an attached one."""
    if not is_run(given):
        return store
    check_name("RUNS", given)
    return first_having(store, runtime, facts_name(given))


def _check_origin(given: str, saved: Sequence[SavedDataset]) -> None:
    """Refuse results that are of another dataset by their own account."""
    sha256 = "" if is_run(given) else made_on(given)
    wrong = [data.name for data in saved if sha256 and data.sha256 != sha256]
    if wrong:
        raise RelayError(
            f"RUNS: {given} was made on another dataset than {wrong[0]!r} is now, as metrics.json"
            " beside it says; evaluate the detector anew."
        )


def _check_names(detectors: Sequence[Detector]) -> None:
    names = [detector.name for detector in detectors]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RelayError(f"RUNS: {twice[0]!r} is there twice; rename one, or leave it out.")


def _seed_note(detectors: Sequence[Detector]) -> str:
    """What to say where runs differ in their seed alone: no interval knows of that."""
    pairs = [
        f"{one.name} and {other.name}"
        for one, other in combinations(detectors, 2)
        if differ_in_seed_alone(one.config, other.config)
    ]
    if not pairs:
        return ""
    told = ", ".join(pairs[:_PAIRS]) + (", ..." if len(pairs) > _PAIRS else "")
    return (
        f"{told}: differ in SEED alone, and the intervals know nothing of what a seed changes;"
        " train several seeds of each setting before calling one better."
    )


def _reported(
    store: Store, config: EvaluateConfig, datasets: Sequence[OnDataset], note: str
) -> EvaluateResult:
    """Write comparison.json, the pictures and report.html."""
    folder = f"comparisons/{config.report}"
    sections, pictures, tables = [], {}, []
    for on in datasets:
        drawn = comparison_pictures(on)
        prefix = f"{on.dataset}_" if len(datasets) > 1 else ""
        named = {f"{prefix}{name}": picture for name, picture in drawn.items()}
        pictures.update(named)
        rows = _rows(on)
        table = metrics_table(rows)
        better = differences_table(on.significance) if on.significance else ""
        better = f"{better}\n{note}" if better and note else better
        tables.append("\n\n".join(part for part in (_heading(on, datasets), table, better) if part))
        sections.append(
            Section(
                on.dataset,
                rows,
                on.significance,
                {**_facts(on), **({"Seeds": note} if note else {})},
                [(picture.caption, for_page(picture)) for picture in named.values()],
            )
        )
    for name, picture in pictures.items():
        store.write(f"{folder}/{name}.png", picture.png)
    store.write(f"{folder}/comparison.json", as_json(_comparison(datasets)))
    names = [run.run for run in datasets[0].runs]
    who = ", ".join(names) if len(names) <= 3 else f"{len(names)} detectors"
    title = f"{who} on {', '.join(config.dataset)}"
    store.write(f"{folder}/report.html", report_page(title, sections).encode())
    where = store.describe(f"{folder}/report.html")
    return EvaluateResult(list(datasets), "\n\n".join(tables), pictures, where)


def _heading(on: OnDataset, datasets: Sequence[OnDataset]) -> str:
    return f"On {on.dataset}:" if len(datasets) > 1 else ""


def _rows(on: OnDataset) -> list[tuple[str, dict[str, float]]]:
    """A row a detector, and below it a row a source where there are several."""
    rows = []
    for run in on.runs:
        rows.append((run.run, run.scores.metrics))
        sources = run.metrics["per_source"]
        if len(sources) > 1:
            rows += [(f"  on {source}", metrics) for source, metrics in sources.items()]
    return rows


def _facts(on: OnDataset) -> dict[str, str]:
    first = on.runs[0]
    counts = {k: v for k, v in first.metrics["counts"].items() if k != "detections"}
    facts = {
        "Dataset": f"{on.dataset}, SHA-256 {on.sha256}",
        "Counts": ", ".join(f"{value} {name}" for name, value in counts.items()),
        "Engine": first.scores.engine,
        "Date": first.metrics["date"],
    }
    notes = [f"{run.run}: {n}" for run in on.runs for n in run.metrics["unmatched_categories"]]
    notes += [f"{run.run}: {n}" for run in on.runs for n in run.metrics["findings"]]
    return {**facts, "Notes": "; ".join(notes)} if notes else facts


def _comparison(datasets: Sequence[OnDataset]) -> dict[str, Any]:
    """What comparison.json holds: the first dataset at the top, and all of them by name."""
    parts = {
        on.dataset: {
            "dataset": on.dataset,
            "sha256": on.sha256,
            "runs": {run.run: run.metrics for run in on.runs},
            "analyses": {name: as_facts(found) for name, found in on.analyses.items()},
            "found_by": pairs_found(on.truth, on.analyses),
            **_significance(on.significance),
        }
        for on in datasets
    }
    return {**parts[datasets[0].dataset], "datasets": parts}


def _significance(found: Significance | None) -> dict[str, Any]:
    return asdict(found) if found else {}
