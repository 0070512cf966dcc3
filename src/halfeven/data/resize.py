"""Which size a picture gets, and how it is brought to it.

The size of one side, in this order: the model's static length, the preset's `size`, the other side's factor (when only
the other is settled: width in proportion), `default_size`, the picture's own rounded up to `multiple`.

    stretch        resize to height x width
    shortest+crop  resize so that the crop is `crop` of the shortest side, then cut out the centre (torchvision
                   Resize + CenterCrop: the long side is cut down to an int, the corner is rounded half to even)
    letterbox      resize by the smaller of the two factors, then `fill` around, half on each side (as Ultralytics)

Pillow's filters average over the covered area when a picture shrinks; OpenCV's bilinear does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from halfeven.data.preprocess import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image


def target_size(preprocess: Preprocess, model: tuple[int | None, int | None], own: tuple[int, int]) -> tuple[int, int]:
    """(height, width) to which a picture of `own` (height, width) is resized before any padding."""
    asked = preprocess.size or (None, None)
    height, width = (m or a for m, a in zip(model, asked, strict=True))
    if preprocess.size and None in preprocess.size:
        return _in_proportion(preprocess, model, own)
    if height and width:
        return height, width
    if not height and not width:
        return preprocess.default_size or (_up(own[0], preprocess.multiple), _up(own[1], preprocess.multiple))
    factor = height / own[0] if height else (width or 1) / own[1]
    return (
        height or _up(round(own[0] * factor), preprocess.multiple),
        width or _up(round(own[1] * factor), preprocess.multiple),
    )


def _in_proportion(
    preprocess: Preprocess, model: tuple[int | None, int | None], own: tuple[int, int]
) -> tuple[int, int]:
    """One side fixed by the preset, the other in proportion, but no longer than the model's (the rest is padded)."""
    fixed = 0 if preprocess.size and preprocess.size[0] else 1
    side = model[fixed] or (preprocess.size or (1, 1))[fixed] or 1
    other = _up(round(own[1 - fixed] * side / own[fixed]), preprocess.multiple)
    other = min(other, model[1 - fixed] or other)
    return (side, other) if fixed == 0 else (other, side)


def _up(length: int, multiple: int) -> int:
    """`length` rounded up to a multiple, at least one multiple."""
    return max(1, -(-length // multiple)) * multiple


def fit(picture: Image, size: tuple[int, int], preprocess: Preprocess) -> Image:
    """The picture at `size` (height, width), in the way and with the filter of the preset."""
    import PIL.Image

    height, width = size
    method = PIL.Image.Resampling[preprocess.filter.upper()]
    if preprocess.resize == "letterbox":
        return _letterbox(picture, size, preprocess.fill, method)
    if preprocess.resize == "stretch":
        return picture if picture.size == (width, height) else picture.resize((width, height), method)
    resized = picture.resize(_around(picture.size, size, preprocess.crop), method)
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def _around(own: tuple[int, int], size: tuple[int, int], crop: float) -> tuple[int, int]:
    """(width, height) of which the crop `size` (height, width) is the share `crop` on the tighter side."""
    width, height = max(size[1], round(size[1] / crop)), max(size[0], round(size[0] / crop))
    if own[0] * height >= own[1] * width:
        return max(size[1], height * own[0] // own[1]), height
    return width, max(size[0], width * own[1] // own[0])


def _letterbox(picture: Image, size: tuple[int, int], fill: int, method: int) -> Image:
    import PIL.Image

    height, width = size
    factor = min(height / picture.height, width / picture.width)
    inner = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    if inner != picture.size:
        picture = picture.resize(inner, PIL.Image.Resampling(method))
    canvas = PIL.Image.new(picture.mode, (width, height), (fill,) * len(picture.getbands()))
    # An odd rest goes below and on the right: Ultralytics rounds rest / 2 - 0.1.
    canvas.paste(picture, (round((width - inner[0]) / 2 - 0.1), round((height - inner[1]) / 2 - 0.1)))
    return canvas
