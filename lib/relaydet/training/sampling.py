"""The detector's own random choices, keyed by position instead of drawn from a global stream.

torchvision's RPN and RoI heads train on a random subset of anchors and proposals, drawn from the
device's global generator: which ones depends on everything drawn before. Here each image's subset
is a function of (seed, step, index in the optimizer batch), so it is the same after a resume, on
another device count and with another micro-batch. That takes one thing more: torchvision pads the
images of a forward pass to the largest of them, anchors lie on the padding too, and so the anchors
to choose among would depend on what shares a micro-batch. Here all are padded to the largest image
of the whole optimizer batch.

Shape suffixes: N images, A anchors or proposals of one image, K of them that are chosen at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from relaydet.randomness import keyed_bits, keyed_seed
from relaydet.training.micro_batch import norm_buffers
from relaydet.training.team import ALONE, Team

_RPN, _ROI_HEADS, _LAYERS = 4, 5, 6

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_ALL = 2**64 - 1
_LARGEST = 2**63 - 1
"""After every turn but one in 2^63."""


@dataclass
class Position:
    """Where training is: the next forward pass starts at image `first_image` of this step."""

    seed: int
    step: int = 0
    first_image: int = 0
    transform: GeneralizedRCNNTransform | None = None
    """The detector's; None pads each forward pass by itself."""
    shapes: list[list[int]] = field(default_factory=list)
    """[C, H, W] that every image of the optimizer batch is padded to, as they are resized."""
    resized: dict[torch.Size, torch.Size] = field(default_factory=dict)
    """What the transform makes of the shapes seen so far."""

    def begin(self, images: Sequence[torch.Tensor], team: Team = ALONE) -> None:
        """Look at all images [C, H, W] of an optimizer batch, before the first forward pass.

        Args:
            images: those of this rank.
            team: has the others.
        """
        if self.transform is not None:
            shapes = [self._resized(image.shape) for image in images]
            mine = [max(sides) for sides in zip(*shapes, strict=True)]
            self.shapes = [[int(side) for side in team.largest(mine)]]

    def _resized(self, shape: torch.Size) -> torch.Size:
        """What the transform makes of a shape: 5 ms, so each is asked for once."""
        if shape not in self.resized and self.transform is not None:
            # On the meta device torchvision's own code works out the size, and no pixel.
            blank = torch.empty(shape, device="meta")
            self.resized[shape] = self.transform.resize(blank)[0].shape
        return self.resized[shape]

    def enter(self, step: int, first_image: int) -> None:
        """Move to a micro-batch; layers with randomness of their own (dropout) are keyed too."""
        self.step, self.first_image = step, first_image
        torch.manual_seed(keyed_seed(self.seed, step, first_image, _LAYERS))


@dataclass(frozen=True)
class KeyedSampler:
    """Stands in for torchvision's BalancedPositiveNegativeSampler.

    Takes up to `positive_fraction` of `batch_size_per_image` among the positives of an image and
    fills up with negatives (Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.3).
    """

    batch_size_per_image: int
    positive_fraction: float
    stream: int
    position: Position

    def __call__(
        self, matched_idxs: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Masks of the chosen positives and negatives of each image.

        Nothing here waits for a GPU: how many there are of a kind never leaves it.

        Args:
            matched_idxs: per image [A]: at least 1 positive, 0 negative, -1 ignored.
        """
        matched_NA = pad_sequence(list(matched_idxs), batch_first=True, padding_value=-1)
        at, size = self.position, self.batch_size_per_image
        images_N = at.first_image + np.arange(len(matched_NA))
        bits_N = keyed_bits(at.seed, at.step, images_N, self.stream).view(np.int64)
        key_N = torch.from_numpy(bits_N).to(matched_NA.device)
        turns_NA = _turns(key_N, matched_NA.shape[1])
        room_N = torch.full_like(key_N, int(size * self.positive_fraction))
        positives_NA = _first(turns_NA, matched_NA >= 1, room_N, size)
        negatives_NA = _first(turns_NA, matched_NA == 0, size - positives_NA.sum(dim=1), size)
        lengths = [len(matched_A) for matched_A in matched_idxs]
        return (
            [mask_A[:length] for mask_A, length in zip(positives_NA, lengths, strict=True)],
            [mask_A[:length] for mask_A, length in zip(negatives_NA, lengths, strict=True)],
        )


def _turns(key_N: torch.Tensor, length: int) -> torch.Tensor:
    """What candidates queue by: int64 [N, length], the same on every device.

    `keyed_bits` with one part more, the index of the candidate. It depends on nothing else: one
    that comes or goes, for a last bit that is different elsewhere, moves no other.
    """
    index_A = torch.arange(length, device=key_N.device)
    bits_NA = _mixed(key_N[:, None] + _GOLDEN + _mixed(index_A + _GOLDEN))
    return bits_NA & _LARGEST


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    """Int64 stands for 64 bits without a sign: products wrap, and shifts must bring in zeros."""
    bits = (bits ^ ((bits >> 30) & (_ALL >> 30))) * _MIX_1
    bits = (bits ^ ((bits >> 27) & (_ALL >> 27))) * _MIX_2
    return bits ^ ((bits >> 31) & (_ALL >> 31))


def _first(
    turns_NA: torch.Tensor, candidates_NA: torch.Tensor, room_N: torch.Tensor, most: int
) -> torch.Tensor:
    """Mask of those candidates whose turn comes first, as many as there is room for; uint8."""
    queue_NA = torch.where(candidates_NA, turns_NA, _LARGEST)
    turn_NK, index_NK = queue_NA.topk(min(most, queue_NA.shape[1]), dim=1, largest=False)
    place_K = torch.arange(turn_NK.shape[1], device=turn_NK.device)
    chosen_NK = (turn_NK < _LARGEST) & (place_K < room_N[:, None])
    mask_NA = torch.zeros_like(queue_NA, dtype=torch.uint8)
    return mask_NA.scatter_(1, index_NK, chosen_NK.to(torch.uint8))


def _coarsest_cell(model: FasterRCNN) -> int:
    """Return the pixels of an image that a cell of the coarsest feature map stands for."""
    pool = model.roi_heads.box_roi_pool
    scales = getattr(pool, "pool", pool).scales  # the quicker one has torchvision's inside
    return round(1 / min(scales)) if scales else 0


def key_samplers(model: FasterRCNN, seed: int) -> Position:
    """Replace the model's two samplers by keyed ones, and its padding by the whole batch's.

    Returns:
        The position that they read; `begin` each batch and `enter` it before each forward pass.
    """
    position = Position(seed, transform=model.transform)
    largest = model.transform.max_by_axis
    cell = _coarsest_cell(model) if norm_buffers(model) else 0

    def padded(shapes: list[list[int]]) -> list[int]:
        shape = largest([*shapes, *position.shapes])
        if model.training and len(shapes) == 1 and max(shape[1:]) <= cell:
            # A batch norm that trains needs two values, and the coarsest map would have one.
            return [*shape[:2], cell + 1]
        return shape

    model.transform.max_by_axis = padded
    for part, stream in ((model.rpn, _RPN), (model.roi_heads, _ROI_HEADS)):
        theirs = part.fg_bg_sampler
        part.fg_bg_sampler = KeyedSampler(
            theirs.batch_size_per_image, theirs.positive_fraction, stream, position
        )
    return position
