"""Recordings (.wav) as samples.

    value = code / 2**(bits - 1)                   PCM of 16, 24 or 32 bits, little-endian; -1 <= value < 1
    value = (code - 128) / 128                     PCM of 8 bits
    channels                                       their mean
    model's length fixed                           the beginning is taken; a short recording gets zeros at its end
    input int16                                    value * 32768, clipped

Recordings must have one rate, as the model cannot say which it needs. With the preprocess option `rate` those at
another rate are resampled: out(t) = sum_k x(k) h(t - k), h a sinc of the lower of the two half rates under a Hann
window of 16 zero crossings to each side, normalised so that a constant stays.

Source: Smith, "Digital Audio Resampling Home Page", CCRMA 2002 (windowed sinc interpolation); WAVE by stdlib `wave`.
"""

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from halfeven.data.digest import FileDigests
from halfeven.data.preprocess import Preprocess
from halfeven.data.sample import Array, Indexed, InputSpec, Sample, Truth, is_float, limit_note, missing_input, spread
from halfeven.errors import BadCalibration, BadOption

EXTENSIONS = (".wav",)
_CROSSINGS = 16
_BLOCK = 1 << 14


def read_wav(path: Path, frames: int | None = None) -> tuple[npt.NDArray[np.float32], int]:
    """Mono samples in -1..1, float32 [T], and the rate in Hz; only the first `frames` if given.

    Raises:
        BadCalibration: not a WAV file with PCM samples, or damaged.
    """
    try:
        with wave.open(str(path), "rb") as stream:
            channels, width, rate = stream.getnchannels(), stream.getsampwidth(), stream.getframerate()
            raw = stream.readframes(stream.getnframes() if frames is None else frames)
    except (OSError, EOFError, wave.Error) as error:
        raise BadCalibration(f"{path}: cannot be read as PCM WAV ({error or 'truncated'}).") from error
    if width not in (1, 2, 3, 4) or rate <= 0:
        raise BadCalibration(f"{path}: {8 * width} bits at {rate} Hz; expected PCM of 8, 16, 24 or 32 bits.")
    whole = len(raw) // (width * channels) * width * channels
    codes = _codes(raw[:whole], width).reshape(-1, channels)
    return codes.mean(axis=1, dtype=np.float64).astype(np.float32), rate


def _codes(raw: bytes, width: int) -> npt.NDArray[np.float64]:
    """PCM bytes as values in -1..1, exact in double."""
    if width == 1:
        return (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        padded = np.zeros((len(raw) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0] / 2.0**31
    return np.frombuffer(raw, f"<i{width}") / 2.0 ** (8 * width - 1)


def resample(x: npt.NDArray[np.float32], rate: int, wanted: int) -> npt.NDArray[np.float32]:
    """`x` [T] at `rate` Hz brought to `wanted` Hz, float32 [ceil(T * wanted / rate)]."""
    if rate == wanted or x.size == 0:
        return x
    cutoff = min(1.0, wanted / rate)
    half = int(np.ceil(_CROSSINGS / cutoff))
    padded = np.pad(x.astype(np.float64), half)
    out = np.empty(-(-x.size * wanted // rate), np.float32)
    for start in range(0, out.size, _BLOCK):
        at = np.arange(start, min(start + _BLOCK, out.size)) * (rate / wanted)
        nearest = at.astype(np.int64)
        taps = nearest[:, None] + np.arange(1 - half, half + 1)
        away = (at[:, None] - taps) * cutoff
        kernel = np.sinc(away) * np.cos(np.pi * np.clip(away / _CROSSINGS, -1, 1) / 2) ** 2
        picked = padded[np.clip(taps + half, 0, padded.size - 1)]
        out[start : start + at.size] = (picked * kernel).sum(1) / kernel.sum(1)
    return out


def sound_input(specs: Sequence[InputSpec], where: str) -> InputSpec:
    """The one input, shaped [T], [N, T] or [N, 1, T].

    Raises:
        BadCalibration: another shape, a fixed batch, or a second input.
    """
    spec = next((s for s in specs if s.rank in (None, 1, 2, 3) and s.dtype.kind == "f"), specs[0])
    for other in specs:
        if other is not spec:
            remedy = "Give the data of all inputs in one .npz file."
            raise missing_input(other, where, [f"recordings for {spec.name!r}"], remedy)
    leading = [spec.static(axis) or 1 for axis in range((spec.rank or 2) - 1)]
    if spec.rank not in (None, 1, 2, 3) or set(leading) > {1} or not (is_float(spec.dtype) or spec.dtype == np.int16):
        raise BadCalibration(
            f"input {spec} does not take recordings, which fit float or int16 [T], [1, T] or [1, 1, T]. "
            "Give the data as .npz."
        )
    return spec


def open_recordings(
    files: Sequence[tuple[str, Path]],
    where: str,
    specs: Sequence[InputSpec],
    preprocess: Preprocess | None,
    limit: int | None = None,
    truth: Truth | None = None,
) -> Indexed:
    """A source over .wav files, given as (label, path)."""
    spec = sound_input(specs, where)
    rate = preprocess.rate if preprocess else None
    if preprocess is not None and preprocess != Preprocess(rate=rate):
        raise BadOption(f"{where} holds recordings, for which preprocess has the option rate alone, as rate=16000.")
    if rate is None:
        rate = _common_rate(files)
    length = spec.static((spec.rank or 2) - 1) if spec.rank else None
    picks, found = spread(len(files), limit), FileDigests()

    def read(index: int) -> Sample:
        return {spec.name: _shaped(_at_rate(files[picks[index]][1], rate, length), spec)}

    def fingerprint() -> str:
        return found.of([files[pick] for pick in picks], f"{rate}{spec}")

    def contents() -> list[bytes]:
        return [found[files[pick][1]] for pick in picks]

    return Indexed(
        picks, lambda index: files[picks[index]][0], read, fingerprint, contents, lambda: dict(truth or {}),
        limit_note(where, len(files), limit),
    )  # fmt: skip


def _at_rate(path: Path, rate: int, length: int | None) -> npt.NDArray[np.float32]:
    """A recording at `rate`, padded or cut to `length`; no more of the file is read than that takes."""
    own = wav_rate(path)
    x, own = read_wav(path, None if length is None else -(-length * own // rate) + 2 * _CROSSINGS * (1 + own // rate))
    x = resample(x, own, rate)
    return x if length is None else np.pad(x[:length], (0, max(0, length - x.size)))


def _shaped(x: npt.NDArray[np.float32], spec: InputSpec) -> Array:
    x = x.reshape((1,) * ((spec.rank or 2) - 1) + x.shape)
    return np.clip(x * 32768, -32768, 32767).astype(np.int16) if spec.dtype == np.int16 else x.astype(spec.dtype)


def wav_rate(path: Path) -> int:
    """Frames per second, from the header."""
    return read_wav(path, 0)[1]


def _common_rate(files: Sequence[tuple[str, Path]]) -> int:
    """The rate of all files.

    Raises:
        BadCalibration: they differ.
    """
    first: tuple[str, int] | None = None
    for label, path in files:
        try:
            rate = wav_rate(path)
        except BadCalibration:  # named when its turn comes to be read
            continue
        first = first or (label, rate)
        if rate != first[1]:
            raise BadCalibration(
                f"{label} has {rate} Hz, {first[0]} has {first[1]} Hz. Record at one rate, or have them resampled: "
                f"--preprocess rate={first[1]}."
            )
    if first is None:
        raise BadCalibration(f"none of {len(files)} .wav files can be read, the first being {files[0][1]}.")
    return first[1]
