"""RoIAlign on a CPU as the product with a sparse matrix.

RoIAlign (He et al., "Mask R-CNN", ICCV 2017, section 3) is, in each bin of each region, the mean of
a few bilinear samples: a weighted sum of pixels, whose weights are a factor along y times a factor
along x. All bins together are a matrix [bins, pixels] of few entries, and their values the product
with the feature maps [pixels, channels]; the gradient is the product with its transpose. Both go
row by row over all channels at once and over all cores, where torchvision's kernels take the
channels one after the other, and the backward pass on a single core.

Shape suffixes: R regions, P bins along a side, S samples of a bin along a side, K pixels that these
touch, B bins of all regions (R * P * P), X entries that are not 0, L feature maps, Q pixels of all
maps of all images, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.nn.functional import embedding_bag
from torchvision.ops import MultiScaleRoIAlign


class SparseRoIAlign(nn.Module):
    """Does what torchvision's MultiScaleRoIAlign does, and leaves other devices to it."""

    def __init__(self, pool: MultiScaleRoIAlign) -> None:
        """Stand in for a pool, whose sampling ratio is a number."""
        super().__init__()
        self.pool = pool

    def forward(
        self,
        x: dict[str, torch.Tensor],
        boxes: list[torch.Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """Values [R, C, P, P] of regions in feature maps, in the maps' type.

        Args:
            x: by name, the feature maps [images, C, H, W].
            boxes: regions of each image, as corners in its pixels.
            image_shapes: height and width of each image.
        """
        maps = [x[name] for name in self.pool.featmap_names if name in x]
        unsettled = self.pool.scales is None  # its own first call works them out
        if unsettled or maps[0].device.type != "cpu" or not sum(map(len, boxes)):
            return self.pool(x, boxes, image_shapes)
        channels, bins = maps[0].shape[1], int(self.pool.output_size[0])
        matrix = _matrix(self.pool, maps, boxes)
        pixels_QC = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, channels) for m in maps])
        values_BC = _Product.apply(
            pixels_QC.float(), matrix.columns_X, matrix.weights_X, matrix.starts_B
        )
        values = values_BC.view(-1, bins, bins, channels).permute(0, 3, 1, 2)
        return values.to(maps[0].dtype)


@dataclass(frozen=True, eq=False)
class _Matrix:
    """A sparse matrix, row by row: row b has entries starts_B[b]..starts_B[b + 1] - 1."""

    columns_X: torch.Tensor
    weights_X: torch.Tensor
    starts_B: torch.Tensor
    """One more than there are rows."""


class _Product(torch.autograd.Function):
    """A sparse matrix times a dense one, with the gradient of the dense one."""

    @staticmethod
    def forward(
        ctx: Any,
        pixels_QC: torch.Tensor,
        columns_X: torch.Tensor,
        weights_X: torch.Tensor,
        starts_B: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(columns_X, weights_X, starts_B)
        ctx.pixels = len(pixels_QC)
        return _times(pixels_QC, columns_X, weights_X, starts_B)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        columns, weights, starts = (tensor.numpy() for tensor in ctx.saved_tensors)
        shape = (len(starts) - 1, ctx.pixels)
        turned = csr_matrix((weights, columns, starts), shape).tocsc()
        entries = (torch.from_numpy(a) for a in (turned.indices, turned.data, turned.indptr))
        return _times(gradients[0].contiguous(), *entries), None, None, None


def _times(
    dense: torch.Tensor, columns_X: torch.Tensor, weights_X: torch.Tensor, starts_B: torch.Tensor
) -> torch.Tensor:
    return embedding_bag(
        columns_X,
        dense,
        starts_B,
        mode="sum",
        per_sample_weights=weights_X,
        include_last_offset=True,
    )


@torch.no_grad()
def _matrix(
    pool: MultiScaleRoIAlign, maps: Sequence[torch.Tensor], boxes: Sequence[torch.Tensor]
) -> _Matrix:
    """Which pixels each bin is the weighted sum of."""
    image_R = torch.repeat_interleave(torch.tensor([len(mine) for mine in boxes]))
    corners_R4 = torch.cat(list(boxes)).float()
    level_R = pool.map_levels(list(boxes)) if len(maps) > 1 else torch.zeros_like(image_R)
    sizes_L2 = torch.tensor([m.shape[2:] for m in maps])
    first_L = _starts(sizes_L2.prod(dim=1) * len(boxes))
    height_R, width_R = sizes_L2[level_R].unbind(dim=1)
    corners_R4 = corners_R4 * torch.tensor(pool.scales)[level_R][:, None]
    low_R2, high_R2 = corners_R4[:, :2], corners_R4[:, 2:]
    side_R2 = (high_R2 - low_R2).clamp(min=1)
    bins, samples = int(pool.output_size[0]), int(pool.sampling_ratio)
    x_RPK, x_weight_RPK = _along(low_R2[:, 0], side_R2[:, 0], width_R, bins, samples)
    y_RPK, y_weight_RPK = _along(low_R2[:, 1], side_R2[:, 1], height_R, bins, samples)
    image_start_R = first_L[level_R] + image_R * height_R * width_R
    row_start_RPK = image_start_R[:, None, None] + y_RPK * width_R[:, None, None]
    columns = row_start_RPK.int()[:, :, None, :, None] + x_RPK.int()[:, None, :, None, :]
    weights = y_weight_RPK[:, :, None, :, None] * x_weight_RPK[:, None, :, None, :]
    kept = weights != 0
    count_B = kept.view(len(image_R) * bins * bins, -1).sum(dim=1, dtype=torch.int32)
    return _Matrix(columns[kept], weights[kept], _starts(count_B).int())


def _starts(counts: torch.Tensor) -> torch.Tensor:
    """Where each of some rows begins, and where the last one ends."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def _along(
    low_R: torch.Tensor, side_R: torch.Tensor, size_R: torch.Tensor, bins: int, samples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels that each bin touches along one side, and their weights; int64 and float32 [R, P, K].

    As torchvision's kernel has it: samples more than a pixel outside of the map are 0, others are
    moved to its edge. A pixel that two samples touch is there once, with both weights.
    """
    bin_R11 = (side_R / bins)[:, None, None]
    sample_S = (torch.arange(samples) + 0.5) * bin_R11 / samples
    at_RPS = low_R[:, None, None] + torch.arange(bins)[:, None] * bin_R11 + sample_S
    last_R11 = (size_R - 1)[:, None, None]
    outside_RPS = (at_RPS < -1) | (at_RPS > last_R11 + 1)
    at_RPS = at_RPS.clamp(min=0).minimum(last_R11)
    pixel_RPS = at_RPS.long()
    upper_RPS = at_RPS - pixel_RPS
    share_RPS = torch.where(outside_RPS, 0.0, 1 / samples)
    pixel_RPK = torch.cat([pixel_RPS, (pixel_RPS + 1).minimum(last_R11)], dim=2)
    weight_RPK = torch.cat([(1 - upper_RPS) * share_RPS, upper_RPS * share_RPS], dim=2)
    for later in range(1, 2 * samples):
        for earlier in range(later):
            same_RP = pixel_RPK[:, :, earlier] == pixel_RPK[:, :, later]
            moved_RP = weight_RPK[:, :, later] * same_RP
            weight_RPK[:, :, earlier] += moved_RP
            weight_RPK[:, :, later] -= moved_RP
    return pixel_RPK, weight_RPK
