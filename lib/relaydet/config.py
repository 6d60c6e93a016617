"""The configuration of each job: frozen dataclasses, filled by a notebook, the CLI or a test.

Field names are the notebooks' parameter names in lower case and the CLI's flags. A field whose
default is ``None`` is decided from the model's recipe when the job starts; the decided value is
printed and written down with the run.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from relaydet.addresses import shown
from relaydet.errors import RelayError
from relaydet.json_file import UNDECODABLE, reason_of
from relaydet.parameters import collection_in, listing
from relaydet.places import expand_home

DEMO = "demo"
DEMO_HELDOUT = "demo_heldout"
LONGEST_NAME = 150
"""Bytes of a name in UTF-8: names are put together, and a folder's may have 255."""
_SHOWN = 60
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of control and direction marks, half characters and line ends."""
_JOINERS = "\u200c\u200d"
"""Marks that some scripts and emoji are spelled with."""


@dataclass(frozen=True)
class SourceConfig:
    """One dataset that goes into a merge."""

    name: str
    """Short name; first part of every merged file name, and the `source` of its images."""
    format: str
    """Annotation format: coco, cuhk_sysu, prw, crowdhuman, voc or yolo."""
    annotations: str
    """Where the annotations are: a file or a folder, as the format has it; a single file may also
    lie in a zip (people.zip/train.json), behind http(s):// or gs://."""
    images: str
    """Where the images are, which the file names in the annotations start from: a folder, a zip, a
    folder in a zip, gs://bucket/prefix, or the http(s) address of a zip or of a folder."""
    split: str = "all"
    """Part to take where the format defines parts: all, train, test, ..."""
    offset: float = 1.0
    """Pixels subtracted from x and y in formats that count pixels from 1 (cuhk_sysu, prw, voc)."""
    licence: str = ""
    """Licence of the source, copied into the merged file."""
    keep_empty: bool = False
    """Keep images on which the category filter leaves no object (as background images)."""
    categories: tuple[str, ...] = ()
    """What to take of this source, before the merge's own categories; written as they are."""
    image_list: str = ""
    """Path of a text file with the names of the images to take, one a line; empty takes all."""
    max_images: int | None = None
    """Images to take at most, drawn evenly at random; None takes all."""


@dataclass(frozen=True)
class MergeConfig:
    """Merge datasets into one COCO file."""

    dataset: str = DEMO
    """Name of the merged dataset; it is written to STORE/datasets/NAME."""
    sources: str | tuple[SourceConfig | str, ...] = DEMO
    """Path of a JSON file with a list of sources, "demo" to generate the demo set, or the name of a
    known source, such as coco2017-train-person."""
    categories: tuple[str, ...] = ()
    """Categories to keep, "old=new" to rename, "old=" to drop, "*" for all others; empty keeps all
    (of the demo set: person)."""
    store: str = "auto"
    """Folder or gs://bucket/prefix that everything is written to; auto decides by the runtime."""
    include: tuple[str, ...] = ()
    """Sources to take, by name; empty takes all."""
    exclude: tuple[str, ...] = ()
    """Sources to leave out, by name."""
    split: tuple[str, ...] = ()
    """Parts to split off, such as "val=0.1": a tenth of the images becomes dataset NAME_val, the
    rest stays NAME. Duplicates are never separated."""
    held_out: tuple[str, ...] = ()
    """Datasets in the store that must have no image in common with this one."""
    max_images: int | None = None
    """Images to take at most from each source that sets no limit itself; None takes all."""
    formats: tuple[str, ...] = ()
    """Formats to write beside COCO: yolo, voc."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Keep or drop an image that is there already, and an annotation that is repeated in full."""
    near_duplicates: bool = False
    """Look for images that only seem the same (scaled, compressed again) as well."""
    strict: bool = False
    """Fail, and write nothing, where a finding is an error."""
    images: tuple[str, ...] = ()
    """Where the images of a source are on this machine, "source=location", if not as it says."""
    seed: int = 0
    """Seed of max_images and split."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector, or go on with a run that was interrupted."""

    run: str = DEMO
    """Name of the run; it lives in STORE/runs/NAME and is resumed where it exists."""
    dataset: str = DEMO
    """Name of a merged dataset in the store."""
    include: tuple[str, ...] = ()
    """Sources of the dataset to train on; empty takes all."""
    store: str = "auto"
    """Folder or gs://bucket/prefix that everything is written to; auto decides by the runtime."""
    model: str = "auto"
    """A torchvision builder (resnet50_fpn, resnet50_fpn_v2, mobilenet_v3_large_fpn,
    mobilenet_v3_large_320_fpn), a torchvision backbone (resnet18, mobilenet_v2, ...), or small."""
    weights: str = "auto"
    """auto, coco, imagenet, none, or the path of a .pth or .safetensors file."""
    epochs: int | None = None
    """Passes over the training images."""
    batch_size: int = 8
    """Images per optimizer step, whatever hardware is attached."""
    learning_rate: float | None = None
    """Peak learning rate; SGD recipes scale their published rate with batch_size / 16."""
    image_size: int | None = None
    """Short side in pixels that images are resized to."""
    seed: int = 0
    """Seed of the sample order, the augmentation, the detector's sampling and the new weights."""
    max_minutes: float | None = None
    """Minutes after which to save and pause; None trains to the end."""
    checkpoint_minutes: float | None = None
    """Minutes between checkpoints, besides one at the end of every epoch; None decides from what a
    save costs and how long a session may hope to live here."""
    keep_last: int = 2
    """Newest checkpoints that stay in the store, besides the best one; at least 2."""
    keep_gigabytes: float = 5.0
    """What all checkpoints of the run may take; the newest two stay whatever they take."""
    take_over: bool = False
    """Carry the run on although another session is training it; that one then stops."""
    resume_from: str = ""
    """Another store that has the run, which is only read: /kaggle/input/..., a folder, gs://."""
    gpus: int | Literal["auto"] = "auto"
    """How many GPUs share each batch, a process on each; auto takes all. With device cpu, so many
    processes share the cores."""
    sync_batch_norm: bool = False
    """Batch norms that train see the whole batch and not each GPU's share of it; GPUs only."""
    max_restarts: int = 0
    """How often all processes start again from the last checkpoint where one of several died."""
    answer_minutes: float = 10.0
    """Minutes after which one of several processes that does not answer counts as lost."""
    micro_batch: int | None = None
    """Images per forward pass; gradients accumulate to batch_size. None: all at once."""
    workers: int | None = None
    """Loader processes; None decides from the number of cores."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16."""
    plain: bool = False
    """Compute as torchvision does: none of our faster ways, and float32 unless asked otherwise."""
    recompute: bool = False
    """Compute the backbone's activations again in the backward pass instead of keeping them: the
    same weights from less memory, at some speed."""
    deterministic: bool = False
    """On CUDA: bit-equal results from run to run (a CPU always is), at some speed, and with more
    memory: torchvision's RoIAlign then gathers every sample of every region at once."""
    images: tuple[str, ...] = ()
    """Where the images of a source are on this machine, "source=location", if elsewhere than when
    they were merged."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate detectors on datasets and compare them."""

    runs: tuple[str, ...] = (DEMO,)
    """Names of trained runs in the store. Detectors from elsewhere: the path of a COCO results file
    (.json), torchvision/BUILDER for torchvision's published weights, torchvision/BUILDER=FILE for
    weights of your own."""
    dataset: tuple[str, ...] = (DEMO_HELDOUT,)
    """Names of the datasets to evaluate on."""
    store: str = "auto"
    """Folder or gs://bucket/prefix that everything is written to; auto decides by the runtime."""
    report: str = DEMO
    """Name of the report; it is written to STORE/comparisons/NAME."""
    draws: int = 1000
    """Draws of the bootstrap that the intervals are from; 0 leaves them out."""
    verify: bool = False
    """Compute every number with pycocotools as well, and compare."""
    batch_size: int = 8
    """Images per forward pass."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    images: tuple[str, ...] = ()
    """Where the images of a source are on this machine, "source=location", if elsewhere than when
    they were merged."""


@dataclass(frozen=True)
class StudyConfig:
    """Train on each source of a dataset alone and on all together; compare on another dataset."""

    study: str = "study"
    """Name of the report, and what the names of its runs begin with."""
    dataset: str = DEMO
    """Merged dataset: each of its sources is a training set, and all together are one."""
    held_out: str = DEMO_HELDOUT
    """Dataset that all runs are evaluated on."""
    store: str = "auto"
    """Folder or gs://bucket/prefix that everything is written to; auto decides by the runtime."""
    batch_sizes: tuple[int, ...] = (8, 16)
    """Images per optimizer step: each training set is trained on with each."""
    model: str = "auto"
    """As in 2_train."""
    weights: str = "auto"
    """auto, coco, imagenet, none, or the path of a .pth or .safetensors file."""
    epochs: int | None = 12
    """Passes over the training images of each run."""
    image_size: int | None = None
    """Short side in pixels that images are resized to."""
    seed: int = 0
    """Seed of every run."""
    draws: int = 1000
    """Draws of the bootstrap that the intervals are from."""
    max_minutes: float | None = None
    """Minutes after which to save and pause; None trains to the end."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16."""
    images: tuple[str, ...] = ()
    """Where the images of a source are on this machine, "source=location", if elsewhere than when
    they were merged."""


@dataclass(frozen=True)
class FleetConfig:
    """Work off a list of runs, together with other sessions that do the same."""

    fleet: str = "fleet"
    """Name of the list; it is kept in STORE/fleets/NAME.json."""
    runs: str = ""
    """JSON file with a list of runs, each with the parameters of 2_train in lower case; empty takes
    the list that is in the store."""
    store: str = "auto"
    """Folder or gs://bucket/prefix that everything is written to; auto decides by the runtime."""
    max_minutes: float | None = None
    """Minutes after which to save and stop; None works until all runs are done."""
    gpus: int | Literal["auto"] = "auto"
    """How many GPUs of this machine share each batch, if the list does not say; auto takes all."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps; if the list does not say."""


@dataclass(frozen=True)
class BenchConfig:
    """Measure the time per batch on the GPUs that are attached, beside all measured before."""

    batch_sizes: tuple[int, ...] = (8, 16)
    """Images per optimizer step: each is measured."""
    model: str = "auto"
    """As in 2_train."""
    image_size: int | None = None
    """Short side in pixels that images are resized to."""
    steps: int = 20
    """Optimizer steps that are timed, after three to warm up."""
    store: str = "auto"
    """Folder or gs://bucket/prefix with benchmarks/speed.jsonl, which a line is added to."""
    dataset: str = ""
    """Name of a merged dataset in the store to take images from; empty generates scenes."""
    price_per_hour: float | None = None
    """What this machine costs an hour, in any currency."""
    gpus: int | Literal["auto"] = "auto"
    """How many GPUs share each batch; auto takes all."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16."""
    plain: bool = False
    """Compute as torchvision does: none of our faster ways, and float32 unless asked otherwise."""
    workers: int | None = None
    """Loader processes; None decides from the number of cores."""
    images: tuple[str, ...] = ()
    """Where the images of a source are on this machine, "source=location", if elsewhere than when
    they were merged."""


@dataclass(frozen=True)
class DoctorConfig:
    """Tell what this machine is and can: runtime, time left, GPU, store, internet."""

    store: str = "auto"
    """Folder or gs://bucket/prefix that would be written to; auto decides by the runtime."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16."""
    json: bool = False
    """Print JSON alone."""


Configuration = TypeVar("Configuration", TrainConfig, StudyConfig)


def check_name(parameter: str, name: str, longest: int = LONGEST_NAME) -> None:
    """Refuse a name that is no single folder's: it becomes one in the store.

    Raises:
        RelayError: the name is empty, hidden, too long, leads elsewhere, or has characters that
            nobody can see.
    """
    if problem := _problem_of_name(name, longest):
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
        raise RelayError(
            f"{parameter} {shown!r}: cannot be the name of a folder ({problem}); use letters,"
            f" digits, - and _, at most {longest} bytes."
        )


def _problem_of_name(name: str, longest: int) -> str:
    """Why a name cannot be a folder's on every machine that a store may go to; empty if it can."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not name:
        return "it is empty"
    if size > longest:
        return f"it has {size} bytes"
    if any(mark in name for mark in "/\\"):
        return "it has a slash"
    if name.startswith(".") or name.endswith("."):
        return "it begins or ends with a dot"
    if name != name.strip():
        return "it begins or ends with a blank"
    kinds = {unicodedata.category(mark) for mark in name if mark not in _JOINERS}
    if kinds & _UNSEEN:
        return "it has a character that cannot be seen"
    return ""


def check_seed(seed: int) -> None:
    """Refuse a seed that is no 63-bit number; raises RelayError."""
    if not 0 <= seed < 2**63:
        raise RelayError(f"SEED {seed}: take a whole number from 0 to 2**63 - 1.")


def load_sources(
    value: str | list[dict[str, Any] | str] | tuple[SourceConfig | str, ...],
) -> str | tuple[SourceConfig | str, ...]:
    """Turn SOURCES as a user gives it into source configurations.

    Args:
        value: "demo", the path of a JSON file with a list of sources, or that list itself, also as
            text. Names of known sources may stand in the list, and for it.

    Returns:
        "demo", or the sources; names of known ones are left as they are.

    Raises:
        RelayError: the file is missing, or what it holds is not a list of sources.
    """
    if value == DEMO or isinstance(value, tuple):
        return value
    where = "SOURCES"
    if isinstance(value, (str, os.PathLike)):
        value = collection_in(
            expand_home(os.fspath(value), where)
        )  # papermill hands a list over as text
    try:
        if isinstance(value, str) and not value.endswith(".json") and not Path(value).exists():
            return (value,)
        if isinstance(value, str):
            where = value
            value = msgspec.json.decode(Path(value).read_bytes())
        _refuse_unknown_keys(where, value)
        sources = tuple(msgspec.convert(value, type=list[SourceConfig | str]))
    except OSError as error:
        raise RelayError(
            f"{where}: the list of sources cannot be read ({error.strerror}); give the path of a"
            ' JSON file like [{"name": "coco", "format": "coco", "annotations": "...",'
            ' "images": "..."}], or "demo".'
        ) from error
    except UNDECODABLE as error:
        raise RelayError(
            f"{where}: not a list of sources ({reason_of(error)}); each needs name, format,"
            " annotations and images."
        ) from error
    if not sources:
        raise RelayError(f"{where}: the list of sources is empty; name at least one.")
    return sources


@contextmanager
def told_from_where(
    listed: object, sources: str | tuple[SourceConfig | str, ...]
) -> Iterator[None]:
    """Add to an error about a relative path of a source from where such paths count.

    Args:
        listed: SOURCES as it was given: where it is a file, that is looked beside as well.
        sources: what `load_sources` made of it.
    """
    try:
        yield
    except RelayError as error:
        with suppress(OSError):  # the current folder is gone: the error itself is all there is
            if counted := _where_counted(str(error), listed, sources):
                error.args = (f"{str(error).rstrip('.')}{counted}.",)
        raise


def _where_counted(
    message: str, listed: object, sources: str | tuple[SourceConfig | str, ...]
) -> str:
    """What to add to a message about a relative path that is not there; else nothing."""
    entries = [source for source in sources if isinstance(source, SourceConfig)]
    paths = [p for s in entries for p in (s.annotations, s.images, s.image_list) if p]
    for path in sorted(set(paths), key=len, reverse=True):
        missing = not Path(path).is_absolute() and not Path(path).exists()
        if not missing or "://" in path or path.startswith("~") or path not in message:
            continue
        where = (Path(str(listed)).expanduser().absolute().parent / path).resolve()
        beside = isinstance(listed, (str, os.PathLike)) and where.exists()
        return (
            "; relative paths count from the folder that the command runs in, which is"
            f" {Path.cwd()}" + (f"; there is {where}" if beside else "")
        )
    return ""


def _refuse_unknown_keys(where: str, sources: Any) -> None:
    """A misspelt key would otherwise fall back to a default in silence."""
    known = {field.name for field in fields(SourceConfig)}
    for source in sources if isinstance(sources, list) else []:
        unknown = sorted(set(source) - known) if isinstance(source, dict) else []
        if unknown:
            raise RelayError(
                f"{where}: a source has the unknown key {unknown[0]!r}; known are {sorted(known)}."
            )


def public(config: Configuration) -> Configuration:
    """Return a configuration as it may be stored: IMAGES without what is secret in addresses."""
    entries = [entry.partition("=") for entry in config.images]
    cleaned = tuple(f"{source}{equals}{shown(place.strip())}" for source, equals, place in entries)
    return replace(config, images=cleaned) if cleaned else config


def parse_images(entries: Sequence[str], sources: Iterable[str]) -> dict[str, str]:
    """The locations that IMAGES gives, by source.

    Raises:
        RelayError: an entry is not "source=location", or names no source there is.
    """
    known = list(sources)
    located = {}
    for entry in entries:
        source, equals, location = entry.partition("=")
        if not (equals and location.strip()):
            raise RelayError(f'IMAGES: {shown(entry)!r} is not "source=location".')
        if source.strip() not in known:
            raise RelayError(
                f"IMAGES: there is no source {shown(source.strip())!r};"
                f" {listing(source.strip(), known)}."
            )
        located[source.strip()] = expand_home(location.strip(), "IMAGES")
    return located
