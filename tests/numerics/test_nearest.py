"""Promised: the nearest neighbour is the one that ONNX Runtime's Resize shows, in every mode, growing and shrinking."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from halfeven.errors import BadOption
from halfeven.numerics.nearest import COORDINATES, ROUNDINGS, nearest_positions, resized

SCALES = (0.3, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_positions_are_those_of_onnx_runtime(coordinates: str, rounding: str) -> None:
    for size in (4, 7, 16):
        for scale in SCALES:
            x = np.arange(size, dtype=np.float32).reshape(1, 1, size)
            node = helper.make_node(
                "Resize",
                ["x", "", "s"],
                ["y"],
                mode="nearest",
                coordinate_transformation_mode=coordinates,
                nearest_mode=rounding,
            )
            infos = [helper.make_tensor_value_info("x", 1, x.shape), helper.make_tensor_value_info("s", 1, [3])]
            graph = helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name="y")])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=8)
            session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            wanted = session.run(None, {"x": x, "s": np.array([1, 1, scale], np.float32)})[0].ravel()
            assert len(wanted) == resized(size, scale)
            found = nearest_positions(size, len(wanted), scale, coordinates, rounding)
            np.testing.assert_array_equal(found, wanted.astype(int), err_msg=f"{size} {scale}")


def test_modes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(BadOption, match="tf_crop_and_resize"):
        nearest_positions(4, 8, 2.0, "tf_crop_and_resize")
