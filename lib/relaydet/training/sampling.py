"""The detector's own random choices, keyed by position instead of drawn from a global stream.

torchvision's RPN and RoI heads train on a random subset of anchors and proposals, drawn from the
device's global generator: which ones depends on everything drawn before. Here each image's subset
is a function of (seed, step, index in the optimizer batch), so it is the same after a resume, on
another device count and with another micro-batch. That takes one thing more: torchvision pads the
images of a forward pass to the largest of them, anchors lie on the padding too, and so the anchors
to choose among would depend on what shares a micro-batch. Here all are padded to the largest image
of the whole optimizer batch.

Shape suffix: A anchors or proposals of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from relaydet.randomness import keyed_seed
from relaydet.training.team import ALONE, Team

_RPN, _ROI_HEADS, _LAYERS = 4, 5, 6


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

    def begin(self, images: Sequence[torch.Tensor], team: Team = ALONE) -> None:
        """Look at all images [C, H, W] of an optimizer batch, before the first forward pass.

        Args:
            images: those of this rank.
            team: has the others.
        """
        if self.transform is not None:
            # On the meta device torchvision's own code works out the sizes, and no pixel.
            blanks = [torch.empty(image.shape, device="meta") for image in images]
            shapes = [list(self.transform.resize(blank)[0].shape) for blank in blanks]
            mine = [max(sides) for sides in zip(*shapes, strict=True)]
            self.shapes = [[int(side) for side in team.largest(mine)]]

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

        Args:
            matched_idxs: per image [A]: at least 1 positive, 0 negative, -1 ignored.
        """
        masks = [self._sample(matched_A, i) for i, matched_A in enumerate(matched_idxs)]
        return [positive for positive, _ in masks], [negative for _, negative in masks]

    def _sample(self, matched_A: torch.Tensor, image: int) -> tuple[torch.Tensor, torch.Tensor]:
        at = self.position
        generator = torch.Generator()
        generator.manual_seed(keyed_seed(at.seed, at.step, at.first_image + image, self.stream))
        positives = torch.where(matched_A >= 1)[0]
        negatives = torch.where(matched_A == 0)[0]
        take = min(len(positives), int(self.batch_size_per_image * self.positive_fraction))
        fill = min(len(negatives), self.batch_size_per_image - take)
        return (
            _choose(matched_A, positives, take, generator),
            _choose(matched_A, negatives, fill, generator),
        )


def _choose(
    matched_A: torch.Tensor, candidates: torch.Tensor, count: int, generator: torch.Generator
) -> torch.Tensor:
    # Drawn on the CPU: generators of different devices give different numbers for one seed.
    drawn = torch.randperm(len(candidates), generator=generator)[:count].to(candidates.device)
    mask = torch.zeros_like(matched_A, dtype=torch.uint8)
    mask[candidates[drawn]] = 1
    return mask


def key_samplers(model: FasterRCNN, seed: int) -> Position:
    """Replace the model's two samplers by keyed ones, and its padding by the whole batch's.

    Returns:
        The position that they read; `begin` each batch and `enter` it before each forward pass.
    """
    position = Position(seed, transform=model.transform)
    largest = model.transform.max_by_axis
    model.transform.max_by_axis = lambda shapes: largest([*shapes, *position.shapes])
    for part, stream in ((model.rpn, _RPN), (model.roi_heads, _ROI_HEADS)):
        theirs = part.fg_bg_sampler
        part.fg_bg_sampler = KeyedSampler(
            theirs.batch_size_per_image, theirs.positive_fraction, stream, position
        )
    return position
