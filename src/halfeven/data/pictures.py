"""Pictures (JPEG, PNG, BMP, WebP) as samples.

A file becomes 8-bit codes, then `resize.fit`, then `preprocess.normalization`, then the axes of the model's input:

    turned upright by its EXIF orientation; the first frame of an animation
    palette, CMYK, YCbCr      to RGB
    alpha                     dropped, as Pillow's convert("RGB") and OpenCV's imread drop it
    16-bit grey               code = (value + 128) // 257
    grey                      repeated for a colour model; colour to grey by Pillow's "L" (ITU-R 601-2)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from halfeven.data.digest import FileDigests
from halfeven.data.preprocess import Preprocess, normalization
from halfeven.data.resize import fit, target_size
from halfeven.data.sample import Array, Indexed, InputSpec, Sample, Truth, is_float, limit_note, missing_input, spread
from halfeven.errors import BadCalibration, BadOption

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class Frame:
    """Where an input has its picture: `axes` is one of NCHW, NHWC, CHW, HWC, NHW, HW."""

    axes: str
    channels: int
    height: int | None
    width: int | None


def picture_frame(spec: InputSpec, preprocess: Preprocess) -> Frame:
    """Read the layout off the input's shape: the channel axis is the one of length 1, 3 or 4; if open, NCHW.

    Raises:
        BadCalibration: the input has no two axes for a picture.
        BadOption: the preset contradicts the model's channels or size.
    """
    color = 1 if preprocess.color == "GRAY" else 3
    if spec.shape is None:
        return Frame(preprocess.layout or "NCHW", color, None, None)
    axes = _axes(spec, preprocess.layout)
    static = {axis: spec.static(index) for index, axis in enumerate(axes)}
    channels = (static["C"] or color) if "C" in axes else 1
    if channels not in (1, 3, 4):
        raise BadCalibration(
            f"input {spec} takes {channels} channels, a picture has 1, 3 or 4. "
            "Give the data as .npz, or set the layout: preprocess option layout=NHWC or layout=NCHW."
        )
    for asked, side in zip(preprocess.size or (), "HW", strict=False):
        if asked and static[side] and asked != static[side]:
            raise BadOption(f"preprocess asks for size {preprocess.size}, but input {spec} is fixed at another size.")
    return Frame(axes, channels, static["H"], static["W"])


def _axes(spec: InputSpec, layout: str | None) -> str:
    sizes = [spec.static(axis) for axis in range(len(spec.shape or ()))]
    last = sizes[-1:] != [] and sizes[-1] in (1, 3, 4)
    first = len(sizes) == 4 and (sizes[1] in (1, 3) or sizes[1] == 4 == sizes[3] or (sizes[1] == 4 and not last))
    match len(sizes):
        case 4:
            return layout or ("NHWC" if last and not first else "NCHW")
        case 3 if last and layout != "NCHW":
            return "HWC"
        case 3:
            return "CHW" if sizes[0] in (1, 3, 4) else "NHW"
        case 2:
            return "HW"
    raise BadCalibration(f"input {spec} does not take pictures: they need two to four axes. Give the data as .npz.")


def picture_input(specs: Sequence[InputSpec], where: str) -> InputSpec:
    """The input that takes the pictures.

    Raises:
        BadCalibration: another input would be left without data.
    """
    taking = [spec for spec in specs if spec.rank == 4] or [spec for spec in specs if spec.rank in (None, 2, 3)]
    chosen = taking[0] if taking else specs[0]
    for spec in specs:
        if spec is not chosen:
            raise missing_input(
                spec, where, [f"pictures for {chosen.name!r}"], "Give the data of all inputs in one .npz file."
            )
    return chosen


def preparation(preprocess: Preprocess, spec: InputSpec) -> Callable[[Image], Array]:
    """The function from an opened picture to the input's array with batch 1; made once, options checked once.

    Raises:
        BadOption, BadCalibration: the preset and the input do not fit, or the dtype cannot hold the values.
    """
    frame = picture_frame(spec, preprocess)
    table = _codes_to_values(preprocess, frame.channels, spec)
    least = preprocess.pad_to or (1, 1)

    def prepare(picture: Image) -> Array:
        codes = upright_codes(picture, frame.channels)
        size = target_size(preprocess, (frame.height, frame.width), (codes.height, codes.width))
        pixels = np.asarray(fit(codes, size, preprocess))
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if preprocess.color == "BGR" and frame.channels > 1:
            pixels = pixels[:, :, [2, 1, 0, 3][: frame.channels]]
        height, width = (m or max(s, p) for m, s, p in zip((frame.height, frame.width), size, least, strict=True))
        planes = np.zeros((frame.channels, height, width), table.dtype)
        for channel, plane in enumerate(planes):
            plane[: size[0], : size[1]] = table[channel][pixels[:, :, channel]]
        return _arrange(planes, frame.axes)

    return prepare


def _codes_to_values(preprocess: Preprocess, channels: int, spec: InputSpec) -> npt.NDArray[Any]:
    table = normalization(preprocess, channels)
    dtype = np.dtype(preprocess.dtype) if preprocess.dtype else spec.dtype
    if is_float(dtype):
        return np.asarray(table, dtype)
    whole = np.rint(table)
    if dtype.kind not in "iu" or whole.min() < np.iinfo(dtype).min or whole.max() > np.iinfo(dtype).max:
        raise BadOption(
            f"preprocess gives values {table.min():.4g}..{table.max():.4g}, which {dtype} of input {spec} cannot hold. "
            "Use --preprocess raw for an integer input."
        )
    return np.asarray(whole, dtype)


def _arrange(planes: Array, axes: str) -> Array:
    """From (C, H, W) to the input's axes, batch 1."""
    match axes:
        case "NCHW":
            return planes[None]
        case "NHWC":
            return np.ascontiguousarray(planes.transpose(1, 2, 0))[None]
        case "HWC":
            return np.ascontiguousarray(planes.transpose(1, 2, 0))
        case "HW":
            return planes.reshape(planes.shape[1:])
    return planes


def upright_codes(picture: Image, channels: int) -> Image:
    """The picture upright in 8 bits: mode L, RGB or RGBA for 1, 3 or 4 channels."""
    import PIL.Image
    import PIL.ImageOps

    picture = PIL.ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        wide = np.asarray(picture).astype(np.int64)
        picture = PIL.Image.fromarray(((wide.clip(0, 65535) + 128) // 257).astype(np.uint8))
    if picture.mode in ("P", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return picture if picture.mode == mode else picture.convert(mode)


def read_picture(path: Path, prepare: Callable[[Image], Array]) -> Array:
    """One file, prepared.

    Raises:
        BadCalibration: the file is missing, damaged or too large to be a picture.
    """
    import PIL.Image

    try:
        with PIL.Image.open(path) as picture:
            return prepare(picture)
    except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
        raise BadCalibration(f"{path}: the picture cannot be read ({error}). Replace or remove the file.") from error


@dataclass(frozen=True, eq=False)
class Album:
    """Picture files, given as (label, path), for one input; `picks` are the runs used, of `batch` neighbours each."""

    files: Sequence[tuple[str, Path]]
    spec: InputSpec
    options: Preprocess
    batch: int
    picks: Sequence[int]
    prepare: Callable[[Image], Array]
    digests: FileDigests = field(default_factory=FileDigests)

    def members(self, index: int) -> Sequence[tuple[str, Path]]:
        """The files of sample `index`."""
        return self.files[self.picks[index] * self.batch : (self.picks[index] + 1) * self.batch]

    def name(self, index: int) -> str:
        """The label of sample `index`: the file's, or the first and the last file's."""
        members = self.members(index)
        return members[0][0] if self.batch == 1 else f"{members[0][0]}..{members[-1][0]}"

    def read(self, index: int) -> Sample:
        """The feeds of sample `index`."""
        arrays = [read_picture(path, self.prepare) for _, path in self.members(index)]
        if len({array.shape for array in arrays}) > 1:
            raise BadCalibration(f"{self.name(index)}: pictures of one batch differ in size. Set size in preprocess.")
        return {self.spec.name: arrays[0] if self.batch == 1 else np.concatenate(arrays)}

    def fingerprint(self) -> str:
        """The digest of the files used and of the options."""
        used = [member for index in range(len(self.picks)) for member in self.members(index)]
        return self.digests.of(used, f"{self.options}{self.spec}{self.batch}")

    def contents(self) -> list[bytes]:
        """A digest of the files of each sample."""
        return [b"".join(self.digests[path] for _, path in self.members(i)) for i in range(len(self.picks))]


def open_pictures(
    files: Sequence[tuple[str, Path]],
    where: str,
    specs: Sequence[InputSpec],
    preprocess: Preprocess | None,
    limit: int | None = None,
    truth: Truth | None = None,
) -> Indexed:
    """A source over picture files, given as (label, path); a fixed batch of N stacks N neighbours."""
    spec = picture_input(specs, where)
    options = preprocess or Preprocess()
    batch = spec.batch or 1 if picture_frame(spec, options).axes[0] == "N" else 1
    runs, rest = divmod(len(files), batch)
    if runs == 0:
        raise BadCalibration(f"{where}: {len(files)} pictures do not fill the model's batch of {batch}.")
    album = Album(files, spec, options, batch, spread(runs, limit), preparation(options, spec))
    notes = limit_note(where, runs, limit)
    if preprocess is None:
        notes += (f"{where}: no preprocess was given, pixels go in as 0..255.",)
    if rest:
        notes += (f"{where}: the last {rest} of {len(files)} pictures do not fill the batch of {batch}; dropped.",)
    labels = dict(truth or {}) if batch == 1 else {}
    return Indexed(album.picks, album.name, album.read, album.fingerprint, album.contents, lambda: labels, notes, batch)
