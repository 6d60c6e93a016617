"""Evaluate trained runs on a dataset, and set them side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from relaydet.config import EvaluateConfig, check_name, parse_images
from relaydet.data.loader import Samples, evaluation_samples
from relaydet.data.saved import SavedDataset, annotations_name, load_dataset, open_sources
from relaydet.errors import RelayError
from relaydet.evaluation.predict import predict
from relaydet.evaluation.report import metrics_table, report_page
from relaydet.evaluation.score import Detection, Scores, score, score_per_source
from relaydet.runtime.attached import first_having
from relaydet.runtime.auto_store import find_store
from relaydet.runtime.detect import detect
from relaydet.runtime.device import choose_device
from relaydet.storage.store import Store
from relaydet.training.export import ExportedModel, facts_name, load_model, record_ap
from relaydet.training.run_files import as_json, now
from relaydet.viewing.charts import precision_recall_chart
from relaydet.viewing.detections import SHEET_LEGEND, detection_sheet
from relaydet.viewing.pictures import Picture, png
from relaydet.viewing.progress import bar, progress


@dataclass(frozen=True)
class Evaluated:
    """One run on one dataset."""

    run: str
    metrics: dict[str, Any]
    """As in metrics.json."""
    scores: Scores
    detections: list[Detection]


@dataclass(frozen=True)
class _Made:
    """What detections were made from, in metrics.json."""

    model_sha256: str
    dataset_sha256: str


@dataclass(frozen=True)
class EvaluateResult:
    """What `evaluate` found."""

    runs: list[Evaluated]
    table: str
    """The metrics of all runs, as text."""
    pictures: dict[str, Picture]
    """By name: the precision-recall chart, and detections beside ground truth for each run."""
    where: str
    """Path of report.html."""

    def __str__(self) -> str:
        return f"{self.table}\n\nThe report is {self.where}"


def evaluate(config: EvaluateConfig, say: Callable[[str], None] = print) -> EvaluateResult:
    """Predict, score and report.

    Args:
        config: which runs, on which dataset.
        say: takes each line that tells the user what happens.

    Raises:
        RelayError: a run without a model, a dataset that is not there, categories without
            anything in common.
    """
    if not config.runs:
        raise RelayError("RUNS is empty; name at least one trained run.")
    for run in config.runs:
        check_name("RUNS", run)
    check_name("REPORT", config.report)
    if config.batch_size < 1:
        raise RelayError(f"BATCH_SIZE {config.batch_size}: take at least 1.")
    store, runtime = find_store(config.store, say), detect()
    name = annotations_name(config.dataset)
    saved = load_dataset(first_having(store, runtime, name), config.dataset)
    truth = msgspec.json.decode(saved.annotations)
    moved = parse_images(config.images, saved.locations)
    samples = evaluation_samples(saved.dataset, open_sources(saved, moved, bar=bar))
    homes = [first_having(store, runtime, facts_name(run)) for run in config.runs]
    models = [load_model(home, run) for home, run in zip(homes, config.runs, strict=True)]
    runs = [
        _evaluate_run(store, run, model, saved, samples, truth, config, say)
        for run, model in zip(config.runs, models, strict=True)
    ]
    pictures = _pictures(runs, samples, truth)
    where = _write_report(store, config, runs, pictures)
    result = EvaluateResult(runs, metrics_table(_rows(runs)), pictures, where)
    say(str(result))
    return result


def _evaluate_run(
    store: Store,
    run: str,
    exported: ExportedModel,
    saved: SavedDataset,
    samples: Samples,
    truth: dict[str, Any],
    config: EvaluateConfig,
    say: Callable[[str], None],
) -> Evaluated:
    folder = f"runs/{run}/evaluations/{saved.name}"
    ids = _category_ids(run, exported, saved)
    unmatched = _unmatched(ids, exported, saved)
    for line in unmatched:
        say(f"run {run!r}: {line}")
    detections = _kept_detections(store, folder, exported, saved)
    if detections is None:
        device = choose_device(config.device, "float32", detect().name)
        if device.warning:
            say(f"WARNING: {device.warning}; {device.remedy}")
        batches = -(-len(samples) // config.batch_size)
        show = progress(f"predicting with {run}", total=batches)
        size = config.batch_size
        raw = predict(exported.model, samples, device.device, size, progress=show, say=say)
        detections = [
            {**d, "category_id": ids[d["category_id"]]} for d in raw if d["category_id"] in ids
        ]
    else:
        say(f"run {run!r}: detections on {saved.name!r} are there already")
    scores = score(truth, detections)
    metrics = {
        **scores.metrics,
        "per_category": scores.per_category,
        "per_source": score_per_source(truth, detections),
        "engine": scores.engine,
        "unmatched_categories": unmatched,
        "counts": _counts(truth, detections),
        "run": run,
        "step": exported.facts["step"],
        "dataset": saved.name,
        "dataset_sha256": saved.sha256,
        "model_sha256": exported.facts["sha256"],
        "date": now(),
    }
    store.write(f"{folder}/detections.json", msgspec.json.encode(detections))
    store.write(f"{folder}/metrics.json", as_json(metrics))
    if store.exists(facts_name(run)):  # else the run is attached, and only to be read
        record_ap(store, run, saved.name, scores.metrics)
    return Evaluated(run, metrics, scores, detections)


def _category_ids(run: str, exported: ExportedModel, saved: SavedDataset) -> dict[int, int]:
    """The dataset's category id of each of the model's labels, matched by name."""
    ids = {category.name: int(category.id) for category in saved.dataset.categories}
    names = exported.facts["categories"]
    found = {label: ids[name] for label, name in enumerate(names, start=1) if name in ids}
    if not found:
        raise RelayError(
            f"Run {run!r} detects {', '.join(names)} and dataset {saved.name!r} has"
            f" {', '.join(ids)}: nothing to compare; choose another DATASET or merge it with the"
            " model's categories."
        )
    return found


def _unmatched(ids: dict[int, int], exported: ExportedModel, saved: SavedDataset) -> list[str]:
    """A sentence for the categories that only the dataset has, or only the model."""
    known, names = set(ids.values()), exported.facts["categories"]
    only_data = [c.name for c in saved.dataset.categories if c.id not in known]
    only_model = [name for label, name in enumerate(names, start=1) if label not in ids]
    lines = []
    if only_data:
        lines.append(
            f"it does not know {', '.join(only_data)}, which count as 0 in the averages; see"
            " per_category in metrics.json"
        )
    if only_model:
        lines.append(f"its {', '.join(only_model)} are not in the dataset and are left out")
    return lines


def _kept_detections(
    store: Store, folder: str, exported: ExportedModel, saved: SavedDataset
) -> list[Detection] | None:
    """Detections of an earlier call, where model and dataset are still the same."""
    if not store.exists(f"{folder}/metrics.json") or not store.exists(f"{folder}/detections.json"):
        return None
    try:
        metrics = msgspec.json.decode(store.read(f"{folder}/metrics.json"), type=_Made)
        detections = msgspec.json.decode(store.read(f"{folder}/detections.json"))
    except msgspec.MsgspecError:
        return None  # damaged: predicting again mends it
    same = metrics == _Made(exported.facts["sha256"], saved.sha256)
    return detections if same else None


def _counts(truth: dict[str, Any], detections: Sequence[Detection]) -> dict[str, int]:
    crowd = sum(bool(a.get("iscrowd")) for a in truth["annotations"])
    return {
        "images": len(truth["images"]),
        "objects": len(truth["annotations"]) - crowd,
        "crowd": crowd,
        "detections": len(detections),
    }


def _rows(runs: Sequence[Evaluated]) -> list[tuple[str, dict[str, float]]]:
    """A row a run, and below it a row a source where there are several."""
    rows = []
    for run in runs:
        rows.append((run.run, run.scores.metrics))
        sources = run.metrics["per_source"]
        if len(sources) > 1:
            rows += [(f"  on {source}", metrics) for source, metrics in sources.items()]
    return rows


def _pictures(
    runs: Sequence[Evaluated], samples: Samples, truth: dict[str, Any]
) -> dict[str, Picture]:
    curves = {run.run: run.scores.curve() for run in runs}
    pictures = {
        "precision_recall": Picture(
            png(precision_recall_chart(curves, "Precision and recall at IoU 0.5")),
            "Precision over recall at IoU 0.5, averaged over the categories.",
        )
    }
    for run in runs:
        sheet = detection_sheet(samples, truth["annotations"], run.detections)
        pictures[f"detections_{run.run}"] = Picture(png(sheet), f"{run.run}: {SHEET_LEGEND}")
    return pictures


def _write_report(
    store: Store,
    config: EvaluateConfig,
    runs: Sequence[Evaluated],
    pictures: dict[str, Picture],
) -> str:
    folder = f"comparisons/{config.report}"
    for name, picture in pictures.items():
        store.write(f"{folder}/{name}.png", picture.png)
    comparison = {"dataset": config.dataset, "runs": {run.run: run.metrics for run in runs}}
    store.write(f"{folder}/comparison.json", as_json(comparison))
    page = report_page(
        title=f"{', '.join(config.runs)} on {config.dataset}",
        rows=_rows(runs),
        facts={
            "Dataset": f"{config.dataset}, SHA-256 {runs[0].metrics['dataset_sha256']}",
            "Counts": ", ".join(f"{v} {k}" for k, v in runs[0].metrics["counts"].items()),
            "Engine": runs[0].scores.engine,
            "Date": runs[0].metrics["date"],
        },
        pictures=[(picture.caption, picture.png) for picture in pictures.values()],
    )
    store.write(f"{folder}/report.html", page.encode())
    return store.describe(f"{folder}/report.html")
