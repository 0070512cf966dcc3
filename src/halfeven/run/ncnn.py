"""ncnn on CPU: runs a .param file with the .bin beside it. The one door to its package.

All half-precision storage and arithmetic is off, so that what is not int8 is float32. ncnn has no batch axis: feeds
have one, their first, and are run sample by sample; outputs are stacked along it.

    option      in ncnn                        meaning
    int8        use_int8_inference             False refuses files with int8 weights
    winograd    use_winograd_convolution       other algorithms for 3x3 windows; int8 sums stay exact
    threads     num_threads

`int8_layers` is the proof of what ran on codes: it runs the network and looks at the blob that each layer with weights
was given. A layer whose input lies in memory as int8 has no float kernel that could read it. `codes` reads the int8
blobs themselves. Source: ncnn 20261020, python/src/main.cpp; Mat.elembits,
Extractor.extract of type 1 (the blob as it is stored).
"""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from halfeven.draft import Batch
from halfeven.errors import BadCalibration, BadOption, UnsupportedModel

MISSING = "ncnn is not installed: pip install 'halfeven[ncnn]'."
MAGIC = b"7767517"
HALVES = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")
WEIGHTED = ("Convolution", "InnerProduct", "Deconvolution", "Gemm", "LSTM", "GRU", "RNN", "MultiHeadAttention")
CODED = ("Quantize", "Convolution", "ConvolutionDepthWise")  # what can give int8 blobs
INT8_BITS = 8
RAW = 1  # of Extractor.extract: as it is stored


@dataclass(frozen=True)
class NcnnExecutor:
    """Runs a network; call it with feeds by name, get a batch of its outputs."""

    path: Path
    int8: bool = True
    winograd: bool = True
    threads: int = 1
    _open: list[Any] = field(default_factory=list, repr=False, compare=False)
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def net(self) -> Any:
        """The runtime's network, loaded on first use."""
        with self._lock:
            if not self._open:
                self._open.append(_load(self))
        return self._open[0]

    @property
    def inputs(self) -> list[str]:
        """Names of what it takes."""
        return list(self.net.input_names())

    @property
    def outputs(self) -> list[str]:
        """Names of what a call returns."""
        return list(self.net.output_names())

    def __call__(self, feeds: Batch, label: str = "") -> Batch:
        """Run every sample of the feeds.

        Raises:
            BadCalibration: a feed is missing or of another type, the feeds hold differently many samples, or ncnn
                refuses them.
        """
        count = _count(self, feeds, label)
        rows = [self._one({name: feeds[name][i] for name in self.inputs}, label) for i in range(count)]
        return {name: np.stack([row[name] for row in rows]) for name in self.outputs}

    def codes(self, feeds: Batch, label: str = "") -> Batch:
        """The codes in every blob of int8, by the name of the layer that made it.

        Raises:
            BadCalibration: as for a call.
        """
        count = _count(self, feeds, label)
        rows = [self._coded({name: feeds[name][i] for name in self.inputs}) for i in range(count)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _coded(self, feeds: Batch) -> Batch:
        extractor, held = _fed(self.net, feeds)
        blobs = self.net.blobs()
        found: Batch = {}
        for layer in self.net.layers():
            if layer.type not in CODED:
                continue
            name = blobs[layer.tops[0]].name
            failed, blob = extractor.extract(name, RAW)
            if not failed and blob.elembits() == INT8_BITS:
                found[layer.name] = np.array(extractor.extract(name)[1]).astype(np.int8)  # unpacked, as real numbers
        del held
        return found

    def _one(self, feeds: Batch, label: str) -> Batch:
        extractor, held = _fed(self.net, feeds)
        found = {}
        for name in self.outputs:
            failed, blob = extractor.extract(name)
            if failed:
                raise BadCalibration(f"{label or 'a sample'}: ncnn cannot compute '{name}' (code {failed}).")
            found[name] = np.array(blob)
        del held
        return found


@dataclass(frozen=True)
class Ran:
    """A layer with weights, and how many bits a number had in the blob it read; 8: it ran on codes."""

    name: str
    kind: str
    bits: int

    @property
    def integer(self) -> bool:
        """Whether it ran on codes."""
        return self.bits == INT8_BITS


def open_ncnn(path: str | Path, *, int8: bool = True, winograd: bool = True, threads: int = 1) -> NcnnExecutor:
    """An executor of a .param file.

    Raises:
        BadOption: ncnn is not installed, or there is no such file.
        UnsupportedModel: it is no .param file, or ncnn cannot load it.
    """
    run = NcnnExecutor(Path(path), int8, winograd, threads)
    run.net  # noqa: B018  loaded now, so that what is wrong with the file is said here
    return run


def int8_layers(run: NcnnExecutor, feeds: Batch) -> tuple[Ran, ...]:
    """The layers with weights, and what the first sample of the feeds showed of their input."""
    extractor, held = _fed(run.net, {name: feeds[name][0] for name in run.inputs})
    blobs = run.net.blobs()
    found = []
    for layer in run.net.layers():
        if not layer.type.startswith(WEIGHTED):
            continue
        name = blobs[layer.bottoms[0]].name
        failed, blob = extractor.extract(name, RAW)
        if failed:
            raise BadCalibration(f"ncnn cannot compute '{name}', which {layer.type} '{layer.name}' reads.")
        found.append(Ran(layer.name, layer.type, int(blob.elembits())))
    del held
    return tuple(found)


def _load(run: NcnnExecutor) -> Any:
    try:
        import ncnn
    except ImportError:
        raise BadOption(MISSING) from None
    weights = run.path.with_suffix(".bin")
    for file in (run.path, weights):
        if not file.is_file():
            raise BadOption(f"'{file}' is not there; a network of ncnn is a .param file and a .bin file beside it.")
    _check_text(run.path)
    net = ncnn.Net()
    for name in HALVES:
        if hasattr(net.opt, name):
            setattr(net.opt, name, False)
    net.opt.use_vulkan_compute = False
    net.opt.use_int8_inference = run.int8
    net.opt.use_winograd_convolution = run.winograd
    net.opt.num_threads = run.threads
    if net.load_param(str(run.path)) or net.load_model(str(weights)):
        raise UnsupportedModel(
            f"ncnn cannot load '{run.path}': a layer it does not know, or too few weights in '{weights}'."
        )
    return net


def _check_text(path: Path) -> None:
    """Refuse what is no .param file before ncnn reads it."""
    lines = path.read_bytes().split(b"\n")
    counts = lines[1].split() if len(lines) > 1 else []
    listed = sum(bool(line.strip()) for line in lines[2:])
    if lines[0].strip() != MAGIC or len(counts) != 2 or not counts[0].isdigit() or int(counts[0]) != listed:
        raise UnsupportedModel(f"'{path}' is no whole .param file of ncnn: its first lines do not say what follows.")


def _fed(net: Any, feeds: Batch) -> tuple[Any, list[Any]]:
    """An extractor with the feeds of one sample in it, and what must live as long as it does."""
    import ncnn

    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    held: list[Any] = []
    for name, array in feeds.items():
        data = np.ascontiguousarray(array, np.float32)
        blob = ncnn.Mat(data.reshape(data.shape or (1,)))
        held += [data, blob]
        extractor.input(name, blob)
    return extractor, held


def _count(run: NcnnExecutor, feeds: Batch, label: str) -> int:
    shapes = ", ".join(f"{k} {v.dtype}{list(v.shape)}" for k, v in feeds.items())
    where = f"{label or 'a sample'} ({shapes})"
    missing = [name for name in run.inputs if name not in feeds]
    if missing:
        raise BadCalibration(f"{where}: '{run.path}' needs '{missing[0]}' too.")
    arrays = [feeds[name] for name in run.inputs]
    if any(a.dtype.kind != "f" or a.ndim < 1 for a in arrays):
        raise BadCalibration(f"{where}: '{run.path}' takes real numbers, with the samples along the first axis.")
    if len({len(a) for a in arrays}) != 1 or not len(arrays[0]):
        raise BadCalibration(f"{where}: the feeds hold differently many samples, or none.")
    return len(arrays[0])
