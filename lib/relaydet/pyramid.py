"""torchvision's classification networks as feature pyramids: where each has its levels."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from relaydet.errors import RelayError

STRIDES = (4, 8, 16, 32)
PROBE_SIZE = (128, 192)  # height and width in pixels: enough for stride 32, cheap on a CPU
WORKING = "resnet18, mobilenet_v2, efficientnet_b0, convnext_tiny or swin_t"


class _ChannelsLastPyramid(BackboneWithFPN):
    """A feature pyramid on a body whose maps are NHWC, as Swin's are."""

    def forward(self, images_NCHW: Tensor) -> dict[str, Tensor]:
        maps = self.body(images_NCHW)
        return self.fpn(OrderedDict((k, v.permute(0, 3, 1, 2)) for k, v in maps.items()))


def build_pyramid(
    name: str, out_channels: int, coarsest: int = STRIDES[-1]
) -> tuple[BackboneWithFPN, tuple[int, ...]]:
    """Build a classification network, newly initialised, as a feature pyramid.

    Args:
        name: torchvision's name of the network.
        out_channels: channels of each level.
        coarsest: stride in pixels of the coarsest level; layers after it are dropped.

    Returns:
        The pyramid, and the strides of its levels in pixels.

    Raises:
        RelayError: the network has fewer than two levels.
    """
    classifier = torchvision.models.get_model(name, weights=None)
    trunk = nn.Sequential(_trunk_layers(classifier))
    channels_last = isinstance(classifier, torchvision.models.SwinTransformer)
    found = _find_levels(trunk, channels_last)
    levels = {stride: level for stride, level in found.items() if stride <= coarsest}
    if len(levels) < 2:
        raise RelayError(
            f"MODEL: {name!r} gives no pyramid of feature maps to detect on; take one like"
            f" {WORKING}."
        )
    pyramid = _ChannelsLastPyramid if channels_last else BackboneWithFPN
    return_layers = {layer: str(i) for i, (layer, _) in enumerate(levels.values())}
    channels = [count for _, count in levels.values()]
    return pyramid(trunk, return_layers, channels, out_channels), tuple(levels)


def _trunk_layers(classifier: nn.Module) -> OrderedDict[str, nn.Module]:
    """The layers of a classification network, in the order in which they run."""
    for holder in ("features", "layers"):
        if isinstance(getattr(classifier, holder, None), nn.Sequential):
            return OrderedDict(getattr(classifier, holder).named_children())
    layers = OrderedDict(classifier.named_children())
    if "trunk_output" in layers:  # RegNet keeps its stages one level down
        stages = OrderedDict(layers["trunk_output"].named_children())
        return OrderedDict(stem=layers["stem"], **stages)
    return layers


@torch.no_grad()
def _find_levels(trunk: nn.Sequential, channels_last: bool) -> dict[int, tuple[str, int]]:
    """Run a dummy image through a trunk and find the last layer at each stride.

    Returns:
        Stride in pixels -> (name of the layer, its channels), strides ascending.
    """
    trunk.eval()
    levels: dict[int, tuple[str, int]] = {}
    features = torch.zeros(1, 3, *PROBE_SIZE)
    for name, layer in trunk.named_children():
        try:
            features = layer(features)
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError):
            break  # past the last feature map: a classifier's head, or not a plain chain of layers
        if not isinstance(features, Tensor) or features.ndim != 4:
            break
        height, channels = features.shape[1 if channels_last else 2], features.shape[-1]
        channels = channels if channels_last else features.shape[1]
        # Networks without padding lose a pixel here and there: the nearest power of two it is.
        stride = 2 ** round(torch.log2(torch.tensor(PROBE_SIZE[0] / height)).item())
        if stride in STRIDES:
            levels[stride] = (name, channels)
    trunk.train()
    return dict(sorted(levels.items()))
