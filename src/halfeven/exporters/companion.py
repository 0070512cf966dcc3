"""The second file of formats that keep their weights in one of their own, `NAME.bin` beside `NAME.param` or `NAME.xml`.

ncnn and OpenVINO give it the same name; a .bin file in which another network, or the source model, keeps its weights is
never replaced.
"""

from collections.abc import Iterable
from pathlib import Path

from halfeven.errors import BadOption

OWNERS = (".param", ".xml")


def weights_beside(path: Path, read: Iterable[Path]) -> Path:
    """Where the weights of `path` go; `read` are the files that the source model reads.

    Raises:
        BadOption: they would replace a file that belongs to something else.
    """
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        return weights
    others = [path.with_suffix(suffix) for suffix in OWNERS if suffix != path.suffix]
    owner = next((str(other) for other in others if other.is_file()), None)
    if owner is None and any(file.exists() and weights.samefile(file) for file in read):
        owner = "the source model"
    if owner is not None:
        raise BadOption(f"'{path}': its weights would replace '{weights}', which {owner} reads. Choose another name.")
    return weights
