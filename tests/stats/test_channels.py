"""Promised: channel ranges are those of the definition, merge like one stream, and read back the same from JSON."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfeven.errors import BadCalibration
from halfeven.stats.channels import ChannelRange

FLOATS = st.floats(-1e6, 1e6, width=32)
TENSOR = hnp.arrays(np.float32, (2, 3, 4), elements=FLOATS)


def values(channels: ChannelRange) -> list[Any]:
    return [channels.low.tolist(), channels.high.tolist(), channels.square.tolist(), channels.samples]


@given(TENSOR)
def test_ranges_are_per_channel_and_hold_zero(x: np.ndarray) -> None:
    seen = ChannelRange.of(x)
    by_channel = x.transpose(1, 0, 2).reshape(3, -1).astype(np.float64)
    assert seen.low.tolist() == np.minimum(by_channel.min(1), 0).tolist()
    assert seen.high.tolist() == np.maximum(by_channel.max(1), 0).tolist()
    assert np.allclose(seen.square, np.square(by_channel).mean(1), rtol=1e-6)
    assert seen.samples == 1


@given(hnp.arrays(np.float32, (2, 16, 3, 5), elements=FLOATS), st.sampled_from([4, 8, 16]), st.integers(1, 2))
def test_a_tensor_in_blocks_of_channels_is_seen_as_it_is_written(x: np.ndarray, block: int, threads: int) -> None:
    lies = np.ascontiguousarray(x.reshape(2, 16 // block, block, 15).swapaxes(2, 3)).reshape(x.shape)
    assert values(ChannelRange.of(lies, block, threads)) == values(ChannelRange.of(x))


@given(st.lists(TENSOR, min_size=2, max_size=6), st.data())
def test_streams_merge_in_any_grouping(tensors: list[np.ndarray], data: st.DataObject) -> None:
    parts = [ChannelRange.of(x) for x in tensors]
    cut = data.draw(st.integers(1, len(parts) - 1))

    def merged(some: list[ChannelRange]) -> ChannelRange:
        total = some[0]
        for part in some[1:]:
            total = total.merge(part)
        return total

    whole, halves = merged(parts), merged(parts[:cut]).merge(merged(parts[cut:]))
    assert whole.low.tolist() == halves.low.tolist()
    assert whole.high.tolist() == halves.high.tolist()
    assert np.allclose(whole.square, halves.square, rtol=1e-12)  # sums of doubles, in another order
    assert np.allclose(whole.square, np.mean([p.square for p in parts], axis=0), rtol=1e-12)
    assert whole.samples == halves.samples == len(parts)


def test_tensors_of_other_channels_do_not_merge() -> None:
    with pytest.raises(BadCalibration, match="of 3 and 2 channels do not merge"):
        ChannelRange.of(np.ones((1, 3), np.float32)).merge(ChannelRange.of(np.ones((1, 2), np.float32)))


@given(TENSOR)
def test_json_gives_the_same_back(x: np.ndarray) -> None:
    seen = ChannelRange.of(x)
    assert values(ChannelRange.from_json(json.loads(json.dumps(seen.to_json(), allow_nan=False)))) == values(seen)


GOOD = {"low": [0.0, -1.0], "high": [1.0, 0.0], "square": [0.5, 0.5], "samples": 3}


@pytest.mark.parametrize(
    "change",
    [{"low": [0.0]}, {"low": 0.0}, {"square": [[1.0, 1.0]]}, {"high": [float("nan"), 1.0]}, {"low": [1.0, 0.0]}],
)
def test_lists_that_are_no_ranges_are_refused(change: dict[str, Any]) -> None:
    ChannelRange.from_json(GOOD)
    with pytest.raises(BadCalibration, match="expected three lists of equal length"):
        ChannelRange.from_json({**GOOD, **change})
