"""Make the data of src/halfeven/demo: the calibration pictures and the first labelled test pictures, as uint8.

    python tools/make_demo_data.py --calibration calib.npz --test test.npz

`calib.npz` holds `input` float32 [200, 1, 28, 28], pictures as the network is fed, (code / 255 - 0.2860) / 0.3530.
`test.npz` holds the test set of Fashion-MNIST in its own order, `x` uint8 [10000, 28, 28] and `y` uint8 [10000].

The codes are read back from the floats, and the script stops unless they give the same floats again, to the bit.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

MEAN, DEVIATION = 0.2860, 0.3530
TESTED = 1000
DEMO = Path(__file__).resolve().parent.parent / "src" / "halfeven" / "demo"


def codes_of(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Pictures [N, 1, 28, 28] as the network is fed -> codes 0..255, [N, 28, 28].

    Raises:
        ValueError: `values` are not (code / 255 - mean) / deviation, computed in double and rounded once.
    """
    codes = np.rint((values.astype(np.float64) * DEVIATION + MEAN) * 255).astype(np.uint8)
    again = ((codes / 255.0 - MEAN) / DEVIATION).astype(np.float32)
    if not np.array_equal(again, values):
        raise ValueError(f"{np.count_nonzero(again != values)} of {values.size} values are no normalised codes")
    return codes[:, 0]


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, required=True, metavar="FILE")
    parser.add_argument("--test", type=Path, required=True, metavar="FILE")
    given = parser.parse_args()
    with np.load(given.calibration, allow_pickle=False) as archive:
        pictures = codes_of(archive["input"])
    with np.load(given.test, allow_pickle=False) as archive:
        x, y = archive["x"][:TESTED], archive["y"][:TESTED]
    np.savez_compressed(DEMO / "calibration.npz", x=pictures)
    np.savez_compressed(DEMO / "test.npz", x=x, y=y)


if __name__ == "__main__":
    main()
