"""Which array feeds which input.

By name. A model with a single input takes the only array, whatever its name. Arrays under y, label or labels that no
input asks for are labels; other arrays that no input asks for are ignored, and that is noted. One input is made up when
it is missing: `token_type_ids` as zeros shaped like `input_ids`, as a tokenizer gives them for a single sentence.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from halfeven.data.labels import label_key
from halfeven.data.sample import InputSpec, Sample, missing_input, names_text


@dataclass(frozen=True)
class Match:
    """`keys`: input name -> key of the data. `zeros`: inputs filled with zeros. `truth`: the key of the labels."""

    keys: Mapping[str, str]
    zeros: tuple[InputSpec, ...]
    truth: str | None
    notes: tuple[str, ...]


def match_inputs(specs: Sequence[InputSpec], available: Iterable[str], where: str) -> Match:
    """Pair inputs with the keys of the data.

    Raises:
        BadCalibration: an input has no data.
    """
    available = list(available)
    keys = {spec.name: spec.name for spec in specs if spec.name in available}
    truth = label_key(key for key in available if key not in keys)
    spare = [key for key in available if key not in keys and key != truth]
    notes = []
    if len(specs) == 1 and not keys and len(spare) == 1:
        keys[specs[0].name] = spare.pop()
    zeros = tuple(spec for spec in specs if spec.name not in keys and _is_segment(spec, keys))
    for spec in specs:
        if spec.name not in keys and spec not in zeros:
            raise missing_input(spec, where, available, "Add it under that name, one entry per sample.")
    notes += [f"{where}: input {spec} is missing and is fed zeros shaped like 'input_ids'." for spec in zeros]
    if spare:
        notes.append(f"{where}: the model has no input {names_text(spare)}; ignored.")
    return Match(keys, zeros, truth, tuple(notes))


def _is_segment(spec: InputSpec, keys: Mapping[str, str]) -> bool:
    return spec.name == "token_type_ids" and "input_ids" in keys


def fill_zeros(sample: Sample, zeros: Sequence[InputSpec]) -> Sample:
    """The sample with the made-up inputs added."""
    for spec in zeros:
        sample[spec.name] = np.zeros(sample["input_ids"].shape, spec.dtype)
    return sample
