"""How a picture (or a recording) becomes what the network was trained on.

    code   = pixel 0..255 of one channel, after resizing, in the order `color` (RGB, BGR or GRAY)
    value  = (code * scale - mean[channel]) / std[channel]

Order of operations: `code * scale` in double, rounded once to float32; then `- mean` and `/ std` in float32; the cast
to the input's dtype comes last. As the product is rounded once, `scale = 1/255` gives the same bits as the float32
division `code / 255` which training code writes (tested for all 256 codes). `mean` and `std` stand in the order of the
channels *as fed*: with `color = "BGR"` the first belongs to blue.

    preset            size                            colour  value                            for
    imagenet          shortest side to S/0.875, crop  RGB     (x/255 - ImageNet mean) / std    torchvision classifiers
    imagenet-stretch  bicubic stretch                 RGB     the same
    imagenet-bgr      as imagenet                     BGR     the same per colour (mean, std reversed too)
    unit              bilinear stretch                RGB     x/255: 0..1
    symmetric         bilinear stretch                RGB     (x/255 - 0.5) / 0.5: -1..1
    tf, inception     bilinear stretch                RGB     the same as symmetric            Keras "tf" mode
    raw               bilinear stretch                RGB     x: 0..255                        models that normalise
    fashion-mnist     bilinear stretch                GRAY    (x/255 - 0.2860) / 0.3530
    ppocr-rec         height 48, width in proportion  BGR     (x/255 - 0.5) / 0.5, 0 on the right up to width 320
    ppocr-det         own, up to a multiple of 32     BGR     (x/255 - ImageNet mean) / std in the order B, G, R
    yolo              letterbox, 114 around           RGB     x/255: 0..1

ppocr-det gives blue the first ImageNet figure (which is red's), as PaddleOCR does in training.
Sources: torchvision `transforms` reference (ImageNet figures), Keras `imagenet_utils.preprocess_input`,
PaddleOCR `ppocr/data/imaug/operators.py` and `rec_img_aug.py`, Ultralytics `LetterBox`.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption

CHOICES: Mapping[str, tuple[str, ...]] = {
    "resize": ("stretch", "shortest+crop", "letterbox"),
    "filter": ("bilinear", "bicubic", "lanczos", "nearest", "box"),
    "color": ("RGB", "BGR", "GRAY"),
    "layout": ("NCHW", "NHWC"),
    "dtype": ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64"),
}


@dataclass(frozen=True)
class Preprocess:
    """Options of the preparation; the module's docstring has the formula.

    Conditions that hold: every word is one of CHOICES, `std` has no zero, sizes are positive.
    """

    size: tuple[int | None, int | None] | None = None
    """(height, width); None: the model's. One of the two None: in proportion to the other."""
    default_size: tuple[int, int] | None = None
    """(height, width) where the model leaves both open; None: the picture's own, rounded up to `multiple`."""
    multiple: int = 32
    """What a side that nothing fixes is rounded up to."""
    resize: str = "stretch"
    crop: float = 0.875
    """For shortest+crop: the side of the crop as a share of the resized shortest side (224 / 256)."""
    filter: str = "bilinear"
    color: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    fill: int = 114
    """The code around a letterboxed picture."""
    pad_to: tuple[int, int] | None = None
    """At least (height, width): zeros are added below and on the right, after normalisation."""
    layout: str | None = None
    dtype: str | None = None
    rate: int | None = None
    """For sound, samples per second: recordings at another rate are resampled."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        for name, known in CHOICES.items():
            if (word := getattr(self, name)) is not None and word not in known:
                _unknown(f"value of preprocess option {name!r}", str(word), known)
        sides = [s for pair in (self.size, self.default_size, self.pad_to) for s in pair or () if s is not None]
        for name, valid in {
            "size": all(side > 0 for side in sides) and self.size != (None, None),
            "default_size, pad_to": None not in (*(self.default_size or ()), *(self.pad_to or ())),
            "multiple": self.multiple > 0,
            "crop": 0 < self.crop <= 1,
            "fill": 0 <= self.fill <= 255,
            "rate": self.rate is None or self.rate > 0,
            "scale": math.isfinite(self.scale) and self.scale != 0,
            "mean": len(self.mean) in (1, 3, 4) and all(map(math.isfinite, self.mean)),
            "std": len(self.std) in (1, 3, 4) and all(math.isfinite(s) and s != 0 for s in self.std),
        }.items():
            if not valid:
                raise BadOption(f"preprocess option {name} is out of range in {self}.")


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RAW = Preprocess()
_UNIT = Preprocess(scale=1 / 255)
_SYMMETRIC = replace(_UNIT, mean=(0.5,), std=(0.5,))
_IMAGENET_STRETCH = replace(_UNIT, filter="bicubic", mean=_IMAGENET_MEAN, std=_IMAGENET_STD, default_size=(224, 224))
_IMAGENET = replace(_IMAGENET_STRETCH, resize="shortest+crop", filter="bilinear")

PRESETS: Mapping[str, Preprocess] = {
    "imagenet": _IMAGENET,
    "imagenet-stretch": _IMAGENET_STRETCH,
    "imagenet-bgr": replace(_IMAGENET, color="BGR", mean=_IMAGENET_MEAN[::-1], std=_IMAGENET_STD[::-1]),
    "unit": _UNIT,
    "symmetric": _SYMMETRIC,
    "tf": _SYMMETRIC,
    "inception": _SYMMETRIC,
    "raw": _RAW,
    "fashion-mnist": replace(_UNIT, color="GRAY", mean=(0.2860,), std=(0.3530,), default_size=(28, 28)),
    "ppocr-rec": replace(_SYMMETRIC, color="BGR", size=(48, None), multiple=1, pad_to=(48, 320)),
    "ppocr-det": replace(_UNIT, color="BGR", mean=_IMAGENET_MEAN, std=_IMAGENET_STD, multiple=32),
    "yolo": replace(_UNIT, resize="letterbox", default_size=(640, 640)),
}


def normalization(preprocess: Preprocess, channels: int) -> npt.NDArray[np.float32]:
    """The value of each code: float32, shape (channels, 256). This is the formula of the module's docstring.

    Raises:
        BadOption: `mean` or `std` have a figure for each of another number of channels.
    """
    for name, figures in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(figures) not in (1, channels):
            raise BadOption(f"preprocess has {len(figures)} figures for {name}, the model takes {channels} channels.")
    scaled = (np.arange(256, dtype=np.float64) * preprocess.scale).astype(np.float32)
    mean = np.array(preprocess.mean, np.float32)[:, None]
    std = np.array(preprocess.std, np.float32)[:, None]
    return np.broadcast_to((scaled - mean) / std, (channels, 256)).astype(np.float32)


def parse_preprocess(options: Preprocess | str | Mapping[str, Any]) -> Preprocess:
    """Read a preset, a preset with changes, or changes to `raw`.

    Text: "imagenet", "imagenet,filter=lanczos,size=256x256", "scale=1/255,mean=0.5:0.5:0.5". Sides are joined by x
    ("48x?": width in proportion), figures by a colon. A mapping (from TOML): the same names, with "preset" for the
    preset.

    Raises:
        BadOption: an unknown preset, option or value; the message lists the known ones and the nearest.
    """
    if isinstance(options, Preprocess):
        return options
    given = _pairs(options) if isinstance(options, str) else dict(options)
    preset = str(given.pop("preset", "raw"))
    if preset not in PRESETS:
        _unknown("preprocess preset", preset, PRESETS)
    known = [field.name for field in fields(Preprocess)]
    for name in given:
        if name not in known:
            _unknown("preprocess option", name, known)
    return replace(PRESETS[preset], **{name: _value(name, value) for name, value in given.items()})


def _pairs(text: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for index, part in enumerate(filter(None, (part.strip() for part in text.split(",")))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and index > 0:
            raise BadOption(f"preprocess {text!r}: {part!r} is not of the form option=value.")
        name, value = (name, value) if equals else ("preset", name)
        if name in given:
            raise BadOption(f"preprocess {text!r} gives {name!r} twice.")
        given[name] = value
    return given


def _value(name: str, value: Any) -> Any:
    """One option's value from text or TOML, in the type of its field."""
    try:
        if name in CHOICES:
            return next((word for word in CHOICES[name] if word.lower() == str(value).lower()), str(value))
        if name in ("size", "default_size", "pad_to"):
            return _sides(value)
        if name in ("mean", "std"):
            return tuple(_number(part) for part in _parts(value, ":"))
        return _number(value) if name in ("scale", "crop") else _whole(value)
    except (ValueError, ZeroDivisionError, TypeError) as error:
        form = _FORMS.get(name, "a whole number")
        raise BadOption(f"preprocess option {name} is {value!r}, expected {form}.") from error


_FORMS = {
    **dict.fromkeys(("size", "default_size", "pad_to"), "height x width, as 224x224 or 224"),
    **dict.fromkeys(("mean", "std"), "figures joined by a colon, as 0.5:0.5:0.5"),
    **dict.fromkeys(("scale", "crop"), "a number, as 0.5 or 1/255"),
}


def _parts(value: Any, separator: str) -> list[Any]:
    if isinstance(value, str):
        return re.split(separator, value)
    return list(value) if isinstance(value, Iterable) else [value]


def _sides(value: Any) -> tuple[int | None, int | None]:
    sides = [None if side in (None, "?", "") else _whole(side) for side in _parts(value, "[xX:]")]
    if len(sides) > 2:
        raise ValueError(value)
    return sides[0], sides[-1]


def _number(value: Any) -> float:
    return float(Fraction(value.strip())) if isinstance(value, str) else float(value)


def _whole(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or number != float(value):
        raise ValueError(value)
    return number


def _unknown(what: str, word: str, known: Iterable[str]) -> NoReturn:
    """Raise BadOption with the list of the known words and the nearest one."""
    known = list(known)
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1)
    hint = f" Did you mean {lower[near[0]]!r}?" if near else ""
    raise BadOption(f"{word!r} is not a {what}: known are {', '.join(known)}.{hint}")
