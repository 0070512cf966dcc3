"""Float inference over an .npy of samples and nothing else: what calibration is compared with.

Samples are read from the file a batch at a time (not mapped: mapped pages would count as memory), outputs are dropped.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime as ort


def infer(model: Path, data: Path, batch: int) -> int:
    """Run every sample of `data` through `model`; the count of samples."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    with data.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        size = int(np.prod(shape[1:]))
        for start in range(0, shape[0], batch):
            rows = min(batch, shape[0] - start)
            session.run(None, {name: np.fromfile(file, dtype, rows * size).reshape(rows, *shape[1:])})
    return int(shape[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example:\n  python benchmarks/plain_inference.py model.onnx pictures.npy --batch 4"
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help=".npy, one sample a row")
    parser.add_argument("--batch", type=int, default=1, help="samples a call (default: 1)")
    args = parser.parse_args()
    print(infer(args.model, args.data, args.batch), "samples")
