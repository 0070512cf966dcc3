"""Promised: every kind of picture becomes the codes one sees, in the size, order and axes which the model asks for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from halfeven.data.preprocess import Preprocess, parse_preprocess
from halfeven.data.resize import fit, target_size
from halfeven.data.source import InputSpec, open_source
from halfeven.errors import BadCalibration, BadOption


def spec(*shape: int | str | None, dtype: str = "float32") -> InputSpec:
    return InputSpec("x", np.dtype(dtype), shape)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def only(path: Path, model: InputSpec, preprocess: str | Preprocess | None = "raw") -> np.ndarray[Any, Any]:
    ((_, sample),) = open_source(path, [model], preprocess=preprocess)
    return sample["x"]


def test_rgb_goes_in_unchanged_when_the_size_fits(tmp_path: Path) -> None:
    codes = noise(5, 7)
    Image.fromarray(codes).save(tmp_path / "a.png")
    got = only(tmp_path / "a.png", spec("N", 3, 5, 7))
    assert got.dtype == np.float32
    assert np.array_equal(got, codes.transpose(2, 0, 1)[None])


def test_the_layout_is_read_off_the_model(tmp_path: Path) -> None:
    codes = noise(5, 7)
    Image.fromarray(codes).save(tmp_path / "a.png")
    assert np.array_equal(only(tmp_path / "a.png", spec(1, 5, 7, 3)), codes[None])
    assert np.array_equal(only(tmp_path / "a.png", spec(5, 7, 3)), codes)
    assert np.array_equal(only(tmp_path / "a.png", spec(3, 5, 7)), codes.transpose(2, 0, 1))
    assert np.array_equal(
        only(tmp_path / "a.png", spec("N", None, None, None), "raw,size=5x7,layout=NHWC"), codes[None]
    )
    unknown = InputSpec("x", np.dtype("float32"), None)
    assert only(tmp_path / "a.png", unknown, "raw,size=5x7").shape == (1, 3, 5, 7)


def test_bgr_reverses_the_channels(tmp_path: Path) -> None:
    codes = noise(5, 7)
    Image.fromarray(codes).save(tmp_path / "a.png")
    got = only(tmp_path / "a.png", spec("N", 3, 5, 7), "raw,color=BGR")
    assert np.array_equal(got[0], codes[:, :, ::-1].transpose(2, 0, 1))


def test_a_grey_model_gets_grey_and_a_grey_picture_fills_three_channels(tmp_path: Path) -> None:
    grey = noise(5, 6, 1)[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "g.png")
    assert np.array_equal(only(tmp_path / "g.png", spec("N", 1, 5, 6))[0, 0], grey)
    assert np.array_equal(only(tmp_path / "g.png", spec("N", 5, 6))[0], grey)
    assert np.array_equal(only(tmp_path / "g.png", spec(5, 6, dtype="uint8")), grey)
    assert np.array_equal(only(tmp_path / "g.png", spec("N", 3, 5, 6))[0], np.stack([grey] * 3))


def test_alpha_is_dropped_and_kept_for_four_channels(tmp_path: Path) -> None:
    codes = noise(4, 4, 4)
    Image.fromarray(codes).save(tmp_path / "a.png")
    assert np.array_equal(only(tmp_path / "a.png", spec("N", 3, 4, 4))[0], codes[:, :, :3].transpose(2, 0, 1))
    assert np.array_equal(only(tmp_path / "a.png", spec("N", 4, 4, 4))[0], codes.transpose(2, 0, 1))


def test_a_palette_with_transparency_becomes_its_colours(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    picture.save(tmp_path / "p.png", transparency=b"\x00\xff")
    assert only(tmp_path / "p.png", spec("N", 1, 2, 3), "raw,layout=NHWC").tolist() == [
        [[[10, 20, 30], [200, 100, 50]]]
    ]


def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 65535, 128 * 257 + 129]], np.uint16)).save(tmp_path / "w.png")
    assert only(tmp_path / "w.png", spec("N", 1, 1, 4)).ravel().tolist() == [0, 1, 255, 129]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=100)
    red, green, blue = only(tmp_path / "c.jpg", spec("N", 3, 8, 8))[0].mean((1, 2))
    assert red > 230
    assert max(green, blue) < 40


def test_exif_orientation_turns_the_picture_upright(tmp_path: Path) -> None:
    codes = np.zeros((2, 4, 3), np.uint8)
    codes[:, 3] = 255  # the right edge; orientation 6 turns it clockwise, to the bottom
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(codes).save(tmp_path / "t.png", exif=exif)
    got = only(tmp_path / "t.png", spec("N", 3, None, None), "raw,multiple=1")
    assert got.shape == (1, 3, 4, 2)
    assert np.array_equal(got[0, 0, :, 0], [0, 0, 0, 255])


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "webp"])
def test_each_format_is_read(tmp_path: Path, extension: str) -> None:
    Image.new("RGB", (16, 16), (40, 90, 200)).save(tmp_path / f"a.{extension}")
    got = only(tmp_path / f"a.{extension}", spec("N", 3, 16, 16))
    assert np.abs(got[0].mean((1, 2)) - [40, 90, 200]).max() < 4  # JPEG and WebP are lossy


def test_imagenet_stretch_is_the_plain_pillow_and_numpy_recipe(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(60, 45))
    picture.save(tmp_path / "a.png")
    x = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC), np.float32) / 255
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    expected = ((x - mean) / std).transpose(2, 0, 1)
    assert np.array_equal(only(tmp_path / "a.png", spec("N", 3, 32, 32), "imagenet-stretch")[0], expected)


def test_imagenet_resizes_the_shortest_side_and_cuts_the_centre(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(300, 401))
    picture.save(tmp_path / "a.png")
    resized = picture.resize((256 * 401 // 300, 256), Image.Resampling.BILINEAR)
    left = round((resized.width - 224) / 2)
    expected = np.asarray(resized.crop((left, 16, left + 224, 240)), np.float32).transpose(2, 0, 1)
    got = only(tmp_path / "a.png", spec("N", 3, None, None), "imagenet,mean=0,std=1,scale=1")
    assert np.array_equal(got[0], expected)


def test_a_crop_of_a_wide_model_never_leaves_the_picture() -> None:
    picture = Image.fromarray(np.full((50, 40, 3), 200, np.uint8))
    options = parse_preprocess("imagenet")
    for size in [(32, 64), (64, 32), (1, 7), (224, 224)]:
        got = np.asarray(fit(picture, size, options))
        assert got.shape == (*size, 3)
        assert got.min() >= 199  # a crop beyond the edge would be filled with 0


def test_letterbox_keeps_the_proportions_and_fills_with_114(tmp_path: Path) -> None:
    Image.fromarray(np.full((10, 20, 3), 255, np.uint8)).save(tmp_path / "a.png")
    got = only(tmp_path / "a.png", spec("N", 3, 40, 40), "yolo")[0, 0]
    assert np.array_equal(np.flatnonzero(got[:, 0] == 1), np.arange(10, 30))
    assert (got[:10] == np.float32(114 / 255)).all()


def test_text_lines_keep_their_proportions_and_are_padded_with_zeros(tmp_path: Path) -> None:
    codes = noise(48, 100)
    Image.fromarray(codes).save(tmp_path / "a.png")
    got = only(tmp_path / "a.png", spec("N", 3, "?", "W"), "ppocr-rec")[0]
    assert got.shape == (3, 48, 320)
    assert np.array_equal(got[:, :, :100], codes[:, :, ::-1].transpose(2, 0, 1) / np.float32(127.5) - 1)
    assert not got[:, :, 100:].any()


def test_a_text_line_too_long_for_a_fixed_width_is_squeezed(tmp_path: Path) -> None:
    Image.fromarray(noise(24, 400)).save(tmp_path / "a.png")
    assert only(tmp_path / "a.png", spec("N", 3, 48, 320), "ppocr-rec").shape == (1, 3, 48, 320)
    assert only(tmp_path / "a.png", spec("N", 3, 48, "W"), "ppocr-rec").shape == (1, 3, 48, 800)


@pytest.mark.parametrize(
    ("options", "model", "own", "expected"),
    [
        ("raw", (None, None), (33, 64), (64, 64)),
        ("raw,multiple=1", (None, None), (33, 64), (33, 64)),
        ("raw", (100, None), (50, 80), (100, 160)),
        ("raw", (None, 100), (80, 50), (160, 100)),
        ("raw", (7, 9), (80, 50), (7, 9)),
        ("raw,size=20x30", (None, None), (80, 50), (20, 30)),
        ("raw,size=20x?,multiple=1", (None, None), (10, 50), (20, 100)),
        ("raw,size=?x20,multiple=1", (None, None), (1, 4000), (1, 20)),
        ("yolo", (None, None), (80, 50), (640, 640)),
    ],
)
def test_the_size_is_settled_in_order(
    options: str, model: tuple[int | None, int | None], own: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert target_size(parse_preprocess(options), model, own) == expected


def test_an_integer_input_takes_raw_codes_and_no_normalised_ones(tmp_path: Path) -> None:
    codes = noise(4, 4)
    Image.fromarray(codes).save(tmp_path / "a.png")
    got = only(tmp_path / "a.png", spec(1, 4, 4, 3, dtype="uint8"))
    assert got.dtype == np.uint8
    assert np.array_equal(got[0], codes)
    with pytest.raises(BadOption, match=r"gives values -2\.118\.\.2\.64, which uint8 of input 'x'"):
        only(tmp_path / "a.png", spec(1, 4, 4, 3, dtype="uint8"), "imagenet")
    assert only(tmp_path / "a.png", spec(1, 3, 4, 4, dtype="float16"), "unit").dtype == np.float16


def test_a_fixed_batch_stacks_neighbours_and_drops_the_ragged_rest(tmp_path: Path) -> None:
    for index in range(5):
        Image.fromarray(noise(4, 4, seed=index)).save(tmp_path / f"{index}.png")
    source = open_source(tmp_path, [spec(2, 3, 4, 4)], preprocess="raw")
    assert [(label, sample["x"].shape) for label, sample in source] == [
        ("0.png..1.png", (2, 3, 4, 4)),
        ("2.png..3.png", (2, 3, 4, 4)),
    ]
    assert any("the last 1 of 5 pictures" in note for note in source.notes)
    with pytest.raises(BadCalibration, match="5 pictures do not fill the model's batch of 8"):
        open_source(tmp_path, [spec(8, 3, 4, 4)])
    with pytest.raises(BadOption, match="labels need one picture or row a run, but the model's batch is fixed at 2"):
        open_source(tmp_path, [spec(2, 3, 4, 4)], labels=[1, 2, 3, 4, 5])


def test_no_preprocess_feeds_codes_and_says_so(tmp_path: Path) -> None:
    codes = noise(4, 4)
    Image.fromarray(codes).save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png", [spec("N", 3, 4, 4)])
    assert "no preprocess was given, pixels go in as 0..255" in source.notes[0]
    assert np.array_equal(next(iter(source))[1]["x"][0], codes.transpose(2, 0, 1))


def test_what_does_not_fit_the_model_is_refused_before_reading(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 4)).save(tmp_path / "a.png")
    with pytest.raises(BadOption, match=r"size \(48, 48\), but input 'x' float32 \[N, 3, 4, 4\]"):
        only(tmp_path / "a.png", spec("N", 3, 4, 4), "raw,size=48")
    with pytest.raises(BadCalibration, match=r"'x' float32 \[N, 7, 5, 6\] takes 7 channels"):
        only(tmp_path / "a.png", spec("N", 7, 5, 6))
    with pytest.raises(BadCalibration, match=r"does not take pictures"):
        only(tmp_path / "a.png", spec("N"))
    second = InputSpec("scale", np.dtype("float32"), ("N", 2))
    with pytest.raises(BadCalibration, match=r"input 'scale' float32 \[N, 2\] is not in a.png, which has pictures for"):
        open_source(tmp_path / "a.png", [second, spec("N", 3, 4, 4)])


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadCalibration, match=r"a\.png: the picture cannot be read"):
        only(tmp_path / "a.png", spec("N", 3, 4, 4))
