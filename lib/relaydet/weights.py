"""Weights for a detector: a file of the user's, torchvision's published ones, or none.

A file is read as plain tensors, which runs no code in it; a file of torch.save only where torch
keeps that promise (`compat.unsafe_pickles`). Its names are matched to the detector's;
the match that places most tensors wins. What did not fit is said in the `WeightsReport`.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from relaydet.compat import unsafe_pickles
from relaydet.download import Offer, Published, obtain
from relaydet.errors import RelayError
from relaydet.places import expand_home
from relaydet.tensor_match import BODY, fit_tensors

CHOICES = ("auto", "coco", "imagenet", "none")
PREDICTOR = "roi_heads.box_predictor."
WRAPPERS = ("model", "state_dict", "model_state_dict")
MOST_WRAPPERS = 8
"""State dicts that lie in each other; more than that is a dict that holds itself."""
MOST_TENSORS = 100_000


@dataclass(frozen=True)
class WeightsReport:
    """Where a detector's weights came from; `str()` is one line for the user.

    Counted are floating-point tensors: no `num_batches_tracked`, no tables of integers.
    """

    source: str
    """coco, imagenet, none or file."""
    file: str = ""
    """Path of the file that was read."""
    reason: str = ""
    """Why this source was taken."""
    how: str = ""
    """The file's tensors were placed "by name" or "by position"."""
    fitted: int = 0
    """Tensors of the file that are now in the detector."""
    in_file: int = 0
    """Tensors in the file."""
    other_shape: tuple[str, ...] = ()
    """The detector's names of tensors that the file has in another shape; they start new."""
    new: tuple[str, ...] = ()
    """Names of the detector's tensors that start new."""
    copied: tuple[str, ...] = ()
    """Categories whose rows of the box predictor came with COCO's detector."""
    unknown: tuple[str, ...] = ()
    """Categories that COCO's detector does not know; their rows start new."""

    def __str__(self) -> str:
        because = f" ({self.reason})" if self.reason else ""
        if not self.file:
            return f"weights: none{because}: all {len(self.new)} tensors of the detector start new"
        where = self.file if self.source == "file" else f"{self.source} from {self.file}"
        heads_new = any(name.startswith("roi_heads.box_head") for name in self.new)
        part = "backbone" if heads_new else "detector"
        line = f"weights: {where}{because}: {self.fitted} of {self.in_file} tensors fit"
        line += f" ({self.how}) the {part}"
        if self.copied:
            line += f"; it already knows {', '.join(self.copied)}"
        if self.unknown:
            line += f"; rows of the box predictor start new for {', '.join(self.unknown)}"
        if self.other_shape:
            line += f"; in another shape, so left out: {', '.join(self.other_shape)}"
        if self.new:
            parts = dict.fromkeys(_part(name) for name in self.new)
            line += f"; {len(self.new)} tensors of the detector start new ({', '.join(parts)})"
        return line


def load_weights(
    detector: nn.Module, model_name: str, choice: str, offer: Offer, categories: Sequence[str]
) -> WeightsReport:
    """Put weights into a newly initialised detector, in place.

    Args:
        detector: a torchvision Faster R-CNN whose batch norms are not frozen yet.
        model_name: the model's name, for messages.
        choice: auto, coco, imagenet, none, or the path of a .pth, .pt or .safetensors file.
        offer: what is published for this model.
        categories: the detector's categories without the background, in label order 1..N.

    Raises:
        RelayError: the weights are not to be had, cannot be read, or do not fit the model.
    """
    if choice not in CHOICES:
        path = Path(expand_home(choice, "WEIGHTS"))
        known = [entry for entry in (offer.coco, offer.imagenet) if entry]
        published = next((entry for entry in known if entry.file_name == path.name), None)
        return _load_file(detector, model_name, path, published, categories)
    if choice == "auto":
        return _load_auto(detector, model_name, offer, categories)
    if choice == "none":
        return _from_scratch(detector, "as asked")
    published = offer.coco if choice == "coco" else offer.imagenet
    if published is None:
        raise RelayError(
            f"WEIGHTS: no {choice} weights are published for the model {model_name!r}; use"
            " imagenet, none or a file's path, or for coco one of the models resnet50_fpn,"
            " resnet50_fpn_v2, mobilenet_v3_large_fpn, mobilenet_v3_large_320_fpn."
        )
    path_found, reason = obtain(published)
    if path_found is None:
        raise RelayError(
            f"WEIGHTS: the {choice} weights of {model_name!r} are not on this machine and cannot"
            f" be downloaded ({reason}); attach the file {published.file_name} and give its path,"
            f" or set WEIGHTS to none. It is published at {published.url}"
        )
    report = _load_file(detector, model_name, path_found, published, categories)
    return replace(report, source=choice, reason=reason)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the floating-point tensors of a .pth, .pt or .safetensors file, on the CPU.

    A state dict that lies under "model" or "state_dict" is taken out; `num_batches_tracked`
    counters are left out. Numbers may still not be finite (`refuse_not_finite`).

    Raises:
        RelayError: the file is missing, damaged, needs code to load, may run code in this release
            of torch, or holds no plain tensors.
    """
    if not path.is_file():
        raise RelayError(
            f"WEIGHTS: there is no file {str(path)!r}; give auto, coco, imagenet, none, or the path"
            " of a .pth, .pt or .safetensors file."
        )
    content = _state_in(_read(path), path)
    if len(content) > MOST_TENSORS:
        raise RelayError(
            f"WEIGHTS: {path} has {len(content)} entries, more than any state dict; save one with"
            " torch.save(model.state_dict(), path)."
        )
    for name, value in content.items():
        _refuse_special(path, name, value)
    tensors = {name: value for name, value in content.items() if _is_weight(name, value)}
    if not tensors:
        raise RelayError(
            f"WEIGHTS: {path} holds no state dict (names and tensors); save one with"
            " torch.save(model.state_dict(), path)."
        )
    return tensors


def refuse_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise RelayError where a number of some tensors is infinite or none."""
    for name, tensor in tensors.items():
        if not tensor.float().isfinite().all():
            raise RelayError(
                f"WEIGHTS: {path}: the tensor {name!r} has numbers that are not finite (NaN or"
                " infinite); take a file of a training that did not diverge."
            )


def _state_in(content: object, path: Path) -> Mapping[Any, Any]:
    """The state dict that a file's content is or wraps; empty where there is none."""
    for _ in range(MOST_WRAPPERS):
        if not isinstance(content, Mapping):
            return {}
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            return content
        content = inner
    raise RelayError(
        f"WEIGHTS: {path} holds dicts in dicts without an end ({', '.join(WRAPPERS)}); save a state"
        " dict with torch.save(model.state_dict(), path)."
    )


def _refuse_special(path: Path, name: object, value: object) -> None:
    """Refuse a tensor that cannot be copied into a detector's."""
    if not isinstance(value, Tensor):
        return
    if value.is_quantized:
        kind = "quantized"
    elif value.layout != torch.strided:
        kind = "sparse"
    elif value.device.type != "cpu":
        kind = f"on the device {value.device.type!r}, without its numbers"
    elif value.is_complex():
        kind = "of complex numbers"
    else:
        return
    raise RelayError(
        f"WEIGHTS: {path}: the tensor {str(name)[:100]!r} is {kind}; save a state dict of dense"
        " tensors of floating-point numbers."
    )


def _load_auto(
    detector: nn.Module, model_name: str, offer: Offer, categories: Sequence[str]
) -> WeightsReport:
    """The best weights that can be had, else none, and why."""
    if offer.scratch_reason:
        return _from_scratch(detector, offer.scratch_reason)
    reason = "none are published for this model"
    for source, published in (("coco", offer.coco), ("imagenet", offer.imagenet)):
        if published is None:
            continue
        path, reason = obtain(published)
        if path is not None:
            report = _load_file(detector, model_name, path, published, categories)
            return replace(report, source=source, reason=reason)
    return _from_scratch(detector, reason)


def _from_scratch(detector: nn.Module, reason: str) -> WeightsReport:
    return WeightsReport("none", reason=reason, new=tuple(_targets(detector)))


def _load_file(
    detector: nn.Module,
    model_name: str,
    path: Path,
    published: Published | None,
    categories: Sequence[str],
) -> WeightsReport:
    """Copy what fits from a file into the detector; refuse a file made for another model."""
    tensors = read_tensors(path)
    targets = _targets(detector)
    copied: tuple[str, ...] | None = None
    if published is not None and published.epsilon_free:
        tensors = _fold_epsilon(tensors, detector)
    if published is not None and _is_predictor(tensors, targets, len(published.categories)):
        tensors, copied = _pick_rows(tensors, targets, published.categories, categories)
    fit = fit_tensors(tensors, targets)
    body = [name for name in targets if name.startswith(BODY)]
    placed_in_body = sum(name in fit.placed for name in body)
    # A backbone is taken whole or not at all: relatives share most names and shapes (three quarters
    # of a resnet18 can be filled from a resnet50), and would train from a scramble without a word.
    if placed_in_body < len(body) or fit.surplus:
        raise RelayError(
            f"WEIGHTS: {path} does not fit the model {model_name!r} (it fills {placed_in_body} of"
            f" the {len(body)} tensors of the backbone and has {len(fit.surplus)} more in the same"
            " layers); set MODEL to the model that the file was saved from, or WEIGHTS to auto."
        )
    refuse_not_finite(path, {name: tensors[name] for name in fit.placed.values()})
    with torch.no_grad():
        for name, name_in_file in fit.placed.items():
            targets[name].copy_(tensors[name_in_file])
    return WeightsReport(
        source="file",
        file=str(path),
        how=fit.how,
        fitted=len(fit.placed),
        in_file=len(tensors),
        other_shape=fit.other_shape,
        new=tuple(name for name in targets if name not in fit.placed),
        copied=copied or (),
        unknown=() if copied is None else tuple(c for c in categories if c not in copied),
    )


def _read(path: Path) -> object:
    """The file's content, or one sentence on why it cannot be had."""
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        _refuse_unsafe(path)
        _refuse_inflated(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except RelayError:
        raise
    except OSError as error:
        raise RelayError(
            f"WEIGHTS: {path} cannot be read ({error.strerror or error}); check the file."
        ) from error
    except pickle.UnpicklingError as error:
        raise RelayError(
            f"WEIGHTS: {path} was refused: it is not a file of plain tensors (loading it would run"
            " code stored in it, or it is damaged); save one with"
            " torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:  # what a damaged file raises depends on where the damage is
        detail = (str(error).splitlines() or ["it ends too early"])[0][:120]
        raise RelayError(
            f"WEIGHTS: {path} is damaged or not a file of tensors ({detail}); copy or download it"
            " again."
        ) from error


def _refuse_unsafe(path: Path) -> None:
    """Refuse a file that this torch may run code of, unless it is one that torchvision publishes.

    torchvision puts the beginning of a file's SHA-256 into its name.
    """
    danger = unsafe_pickles()
    if not danger:
        return
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if digest and _sha256(path).startswith(digest[1]):
        return
    raise RelayError(
        f"WEIGHTS: {path} is not loaded, since {danger}; convert it to .safetensors where you trust"
        " it, or use a newer torch."
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _refuse_inflated(path: Path) -> None:
    """Refuse a zip whose files come to more than the zip: torch.save packs nothing."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    if claimed > path.stat().st_size:
        raise RelayError(
            f"WEIGHTS: {path} claims {claimed} bytes of tensors in a file of"
            f" {path.stat().st_size}; save it again with torch.save(model.state_dict(), path)."
        )


def _targets(detector: nn.Module) -> dict[str, Tensor]:
    """The detector's tensors by name, as `read_tensors` would give them."""
    return {name: t for name, t in detector.state_dict().items() if _is_weight(name, t)}


def _is_weight(name: object, value: object) -> bool:
    """Neither a batch norm's counter nor a table of integers such as Swin's position index."""
    return (
        isinstance(name, str)
        and not name.endswith("num_batches_tracked")
        and isinstance(value, Tensor)
        and value.is_floating_point()
    )


def _part(name: str) -> str:
    """The part of the detector that a tensor is in: body, fpn, rpn or roi_heads."""
    return name.removeprefix("backbone.").split(".")[0]


def _is_predictor(
    tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor], classes: int
) -> bool:
    """Whether a file has a box predictor of this number of classes, over the features of ours."""
    for layer, width in (("cls_score", 1), ("bbox_pred", 4)):
        for kind in ("weight", "bias"):
            theirs, ours = (side.get(f"{PREDICTOR}{layer}.{kind}") for side in (tensors, targets))
            if theirs is None or ours is None:
                return False
            if theirs.shape != (classes * width, *ours.shape[1:]):
                return False
    return True


def _pick_rows(
    tensors: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    names_in_file: Sequence[str],
    categories: Sequence[str],
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rebuild a published box predictor for our categories, from the rows of the same names.

    Categories that the published detector does not know keep their newly initialised rows.
    """
    picked = dict(tensors)
    row_of = {name.casefold(): row for row, name in reversed(list(enumerate(names_in_file)))}
    rows = {0: 0}
    for label, category in enumerate(categories, start=1):
        if category.strip().casefold() in row_of:
            rows[label] = row_of[category.strip().casefold()]
    for layer, width in (("cls_score", 1), ("bbox_pred", 4)):
        for kind in ("weight", "bias"):
            name = f"{PREDICTOR}{layer}.{kind}"
            theirs = tensors[name].unflatten(0, (-1, width))
            ours = targets[name].unflatten(0, (-1, width)).clone()
            for label, row in rows.items():
                ours[label] = theirs[row]
            picked[name] = ours.flatten(0, 1)
    return picked, tuple(categories[label - 1] for label in rows if label > 0)


def _fold_epsilon(tensors: Mapping[str, Tensor], detector: nn.Module) -> dict[str, Tensor]:
    """Take the epsilon that our batch norms add out of the stored variance beforehand.

    torchvision sets epsilon to 0 in the module instead; an epsilon is not part of a state dict, so
    a detector rebuilt from a checkpoint would lose that.
    """
    folded = dict(tensors)
    for name, module in detector.named_modules():
        key = f"{name}.running_var"
        if isinstance(module, nn.BatchNorm2d) and _same_shape(folded.get(key), module.running_var):
            folded[key] = folded[key] - module.eps
    return folded


def _same_shape(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and first.shape == second.shape
