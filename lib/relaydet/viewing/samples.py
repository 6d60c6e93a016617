"""A dataset drawn, to judge by eye that it was read right."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from relaydet.data.dataset import Dataset
from relaydet.data.images import Images, decode_rgb
from relaydet.viewing.draw import DrawnBox, colour_of, contact_sheet, draw_boxes


def sample_sheet(
    dataset: Dataset, folders: Mapping[str, Images], source: str, count: int = 8
) -> Image.Image:
    """Some annotated images of one source of a merged dataset, evenly spaced over it.

    Boxes are coloured by category; crowd regions are hatched.

    Args:
        dataset: a merged dataset.
        folders: where each source's images are.
        source: which source to show.
        count: how many images.
    """
    by_image = dataset.annotations_by_image()
    names = {category.id: category.name for category in dataset.categories}
    images = [i for i in dataset.images if i.source == source and i.id in by_image]
    chosen = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int))
    pictures, captions = [], []
    for image in (images[i] for i in chosen):
        name = image.file_name.split("/", 1)[1]
        pixels_HWC = decode_rgb(folders[source].read(name), image.file_name)
        boxes = [
            DrawnBox(
                a.bbox,
                colour_of(int(a.category_id)),
                names[a.category_id] if len(names) > 1 else "",
                hatched=bool(a.iscrowd),
            )
            for a in by_image[image.id]
        ]
        pictures.append(draw_boxes(pixels_HWC, boxes))
        captions.append(image.file_name)
    return contact_sheet(pictures, captions)


def object_sizes(dataset: Dataset) -> dict[str, np.ndarray]:
    """By source: sqrt(box area / image area) of each object that is no crowd, 0..1."""
    images = {image.id: image for image in dataset.images}
    sizes: dict[str, list[float]] = {}
    for annotation in dataset.annotations:
        image = images[annotation.image_id]
        if not annotation.iscrowd:
            _, _, width, height = annotation.bbox
            relative = width * height / (image.width * image.height)
            sizes.setdefault(str(image.source), []).append(relative**0.5)
    return {source: np.array(values) for source, values in sizes.items()}
