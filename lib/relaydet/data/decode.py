"""Pixels of an image to train or predict on, by the quickest decoder that gives Pillow's."""

from __future__ import annotations

import numpy as np
import torch

from relaydet.compat import jpeg_decoder
from relaydet.data.images.pixels import decode_rgb, is_colour_jpeg

decode_jpeg = jpeg_decoder()


def decode(data: bytes, name: str) -> np.ndarray:
    """Decode an image file to RGB.

    Args:
        data: the bytes of the file.
        name: what to call it in an error message.

    Returns:
        uint8 array [height, width, 3], rows from the top, not turned by EXIF; of a JPEG, in memory
        channel by channel, as tensors have it.

    Raises:
        RelayError: the bytes are not an image, or only part of one.
    """
    if decode_jpeg is not None and is_colour_jpeg(data):
        try:
            image_CHW = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        except (RuntimeError, AttributeError):
            # The file is broken, and Pillow says how; or this torchvision was built without a
            # decoder, and torch.ops has none of that name.
            return decode_rgb(data, name)
        return image_CHW.permute(1, 2, 0).numpy()
    return decode_rgb(data, name)
