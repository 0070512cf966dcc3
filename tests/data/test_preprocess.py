"""Promised: the normalisation's bits, the grammar of options, and errors naming what is known and what is nearest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfeven.data.preprocess import PRESETS, Preprocess, normalization, parse_preprocess
from halfeven.errors import BadOption

CODES = np.arange(256, dtype=np.float32)
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@pytest.mark.parametrize("preset", ["imagenet", "imagenet-stretch", "ppocr-det"])
def test_imagenet_values_have_the_bits_of_a_float32_division_by_255(preset: str) -> None:
    expected = (CODES / 255)[:, None] - MEAN
    assert np.array_equal(normalization(PRESETS[preset], 3), (expected / STD).T)


def test_half_half_has_the_bits_of_x_by_127_and_a_half_minus_one() -> None:
    for preset in ("symmetric", "tf", "inception", "ppocr-rec"):
        assert np.array_equal(normalization(PRESETS[preset], 1)[0], CODES / np.float32(127.5) - 1)


def test_raw_and_unit_keep_the_codes_in_proportion() -> None:
    assert np.array_equal(normalization(PRESETS["raw"], 3), np.tile(CODES, (3, 1)))
    assert np.array_equal(normalization(PRESETS["yolo"], 1)[0], CODES / np.float32(255))


def test_imagenet_bgr_gives_each_colour_its_own_figures() -> None:
    rgb, bgr = normalization(PRESETS["imagenet"], 3), normalization(PRESETS["imagenet-bgr"], 3)
    assert np.array_equal(rgb[::-1], bgr)


def test_figures_for_three_channels_do_not_fit_one() -> None:
    with pytest.raises(BadOption, match="3 figures for mean, the model takes 1 channels"):
        normalization(PRESETS["imagenet"], 1)


@given(scale=st.floats(1e-3, 10), mean=st.floats(-200, 200), std=st.floats(1e-2, 100), code=st.integers(0, 255))
def test_a_value_is_the_formula_to_within_float32(scale: float, mean: float, std: float, code: int) -> None:
    options = Preprocess(scale=scale, mean=(mean,), std=(std,))
    value = float(normalization(options, 1)[0, code])
    # Each of the five roundings to float32 errs by at most 2**-24 of its operand.
    bound = 2.0**-22 * (abs(code * scale) + abs(mean)) / std + 1e-12
    assert abs(value - (code * scale - mean) / std) <= bound


def test_text_mapping_and_dataclass_agree() -> None:
    text = parse_preprocess("imagenet, filter=LANCZOS ,color=bgr,size=256x192,mean=0.5:1/4:0,scale=1/255")
    table = parse_preprocess(
        {"preset": "imagenet", "filter": "lanczos", "color": "BGR", "size": [256, 192], "mean": [0.5, 0.25, 0],
         "scale": 1 / 255}
    )  # fmt: skip
    assert text == table == parse_preprocess(text)
    assert text.size == (256, 192)
    assert text.mean == (0.5, 0.25, 0.0)
    assert (text.filter, text.color, text.resize) == ("lanczos", "BGR", "shortest+crop")


def test_options_without_a_preset_change_raw() -> None:
    assert parse_preprocess("scale=1/255") == PRESETS["unit"]
    assert parse_preprocess("size=48x?").size == (48, None)
    assert parse_preprocess("size=224").size == (224, 224)
    assert parse_preprocess("rate=16000").rate == 16000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagnet", r"'imagnet' is not a preprocess preset: known are imagenet, .*yolo\. Did you mean 'imagenet'\?"),
        ("imagenet,fliter=box", r"'fliter' is not a preprocess option: .*Did you mean 'filter'\?"),
        ("imagenet,filter=bilinea", r"'bilinea' is not a value of preprocess option 'filter'.*'bilinear'\?"),
        ("imagenet,unit", "'unit' is not of the form option=value"),
        ("crop=0.5,crop=0.6", "gives 'crop' twice"),
        ("size=a", "option size is 'a', expected height x width"),
        ("size=1x2x3", "option size is '1x2x3'"),
        ("mean=1:x", "option mean is '1:x', expected figures joined by a colon"),
        ("scale=1/0", "option scale is '1/0', expected a number"),
        ("multiple=1.5", "option multiple is '1.5', expected a whole number"),
        ("std=0", "option std is out of range"),
        ("mean=0:0", "option mean is out of range"),
        ("size=0", "option size is out of range"),
        ("crop=1.5", "option crop is out of range"),
        ("scale=0", "option scale is out of range"),
        ("fill=256", "option fill is out of range"),
        ("pad_to=48x?", "option default_size, pad_to is out of range"),
    ],
)
def test_a_wrong_option_is_explained(text: str, message: str) -> None:
    with pytest.raises(BadOption, match=message):
        parse_preprocess(text)


def test_a_boolean_is_no_whole_number() -> None:
    with pytest.raises(BadOption, match="multiple is True"):
        parse_preprocess({"multiple": True})
