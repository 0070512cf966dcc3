"""Promised: synthetic samples fit what the model asks for, are the same for the same seed, and look as they should."""

import numpy as np
import pytest

from halfeven.data.check import check_sample
from halfeven.data.sample import InputSpec
from halfeven.data.synthetic import Synthetic


def spec(name: str, dtype: str, *shape: int | str | None) -> InputSpec:
    return InputSpec(name, np.dtype(dtype), shape)


PICTURE = spec("x", "float32", "N", 3, None, None)
SPECS = [
    PICTURE,
    spec("half", "float16", 1, 7),
    spec("double", "float64"),
    spec("input_ids", "int64", "N", "T"),
    spec("attention_mask", "int64", "N", "T"),
    spec("token_type_ids", "int64", "N", "T"),
    spec("lengths", "int32", "N"),
    spec("flag", "bool"),
    spec("codes", "uint8", 2, 5),
    InputSpec("any", np.dtype("float32"), None),
]


def test_every_sample_is_what_the_model_asks_for() -> None:
    source = Synthetic(SPECS, {"input_ids": 50})
    assert source.count == len(list(source)) == 16
    for label, sample in source:
        check_sample(label, sample, SPECS)


def test_equal_seeds_give_equal_samples_and_others_do_not() -> None:
    once, again, other = (dict(Synthetic([PICTURE], {}, count=3, seed=seed)) for seed in (5, 5, 6))
    assert once.keys() == again.keys() == {"synthetic[0]", "synthetic[1]", "synthetic[2]"}
    for label in once:
        assert np.array_equal(once[label]["x"], again[label]["x"])
        assert not np.array_equal(once[label]["x"], other[label]["x"])
    assert not np.array_equal(once["synthetic[0]"]["x"], once["synthetic[1]"]["x"])
    digests = [Synthetic([PICTURE], {}, seed=seed).digest for seed in (5, 5, 6)]
    assert digests[0] == digests[1] != digests[2]


def test_a_sample_can_be_read_alone() -> None:
    source = Synthetic([PICTURE], {}, count=4)
    read = dict(source.readers())["synthetic[2]"]
    assert np.array_equal(read()["x"], dict(source)["synthetic[2]"]["x"])


def test_pictures_have_unit_deviation_and_neighbours_that_agree() -> None:
    x = np.concatenate([sample["x"] for _, sample in Synthetic([PICTURE], {}, count=4)]).astype(np.float64)
    assert x.shape == (4, 3, 224, 224)
    assert x.std() == pytest.approx(1, abs=0.01)
    assert abs(x.mean()) < 0.2
    assert (x[..., 1:] * x[..., :-1]).mean() > 0.5  # two of three grains are wider than a pixel


@pytest.mark.parametrize(("shape", "places"), [(("N", 3, 64, 48), (2, 3)), (("N", 64, 48, 3), (1, 2))])
def test_neighbours_agree_along_height_and_width_and_channels_do_not(
    shape: tuple[int | str, ...], places: tuple[int, int]
) -> None:
    source = Synthetic([spec("x", "float32", *shape)], {}, count=32)
    x = np.concatenate([sample["x"] for _, sample in source]).astype(np.float64)
    for axis in (1, 2, 3):
        likeness = (x.take(range(1, x.shape[axis]), axis) * x.take(range(x.shape[axis] - 1), axis)).mean()
        assert likeness > 0.5 if axis in places else abs(likeness) < 0.1


def test_ids_stay_below_the_rows_of_their_table_and_reach_most_of_them() -> None:
    source = Synthetic([spec("input_ids", "int64", "N", "T")], {"input_ids": 20})
    ids = np.concatenate([sample["input_ids"].ravel() for _, sample in source])
    assert (ids.min(), ids.max()) == (0, 19)
    plain = Synthetic([spec("choice", "int64", "N")], {})
    assert {int(sample["choice"][0]) for _, sample in plain} == {0, 1}


def test_masks_are_ones_types_zeros_and_lengths_full() -> None:
    _, sample = next(iter(Synthetic(SPECS, {})))
    assert (sample["attention_mask"] == 1).all()
    assert (sample["token_type_ids"] == 0).all()
    assert sample["lengths"].tolist() == [sample["input_ids"].shape[1]]
    assert sample["flag"].all()


def test_it_says_that_it_is_synthetic_and_knows_no_labels() -> None:
    source = Synthetic([PICTURE], {})
    assert source.notes == (
        "no data were given: 16 synthetic samples of 224 x 224 stand in; real data give better scales",
    )
    assert source.labels == {}


@pytest.mark.parametrize(
    ("shape", "dtype", "size"),
    [
        (("N", 3, "H", "W"), "float32", "48 x 320"),
        (("N", 3, 64, "W"), "float16", "64 x 320"),
        (("N", "H", "W", 3), "float32", "48 x 320"),
        (("N", "H", "W", "C"), "float32", "48 x 320"),
        (("N", 3, 64, 64), "float32", ""),
        (("N", 1, "S", "S"), "int64", ""),
        (("N", "S", 8), "float32", ""),
    ],
)
def test_the_size_that_is_told_is_that_of_the_pictures(shape: tuple[int | str, ...], dtype: str, size: str) -> None:
    source = Synthetic([spec("x", dtype, *shape)], {}, sides=(48, 320))
    assert source.size == size
    _, sample = next(iter(source))
    assert not size or size in " x ".join(map(str, sample["x"].shape))
    assert (f"samples of {size} stand" in source.notes[0]) == bool(size)
