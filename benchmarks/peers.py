"""Other quantizers at their usual settings, each as one process from float file to INT8 file.

    ort-minmax, ort-percentile, ort-entropy    onnxruntime.quantization: pre-processing (shape inference, optimisation),
                                               then static QDQ, uint8 activations, int8 weights per channel
    nncf                                       nncf.quantize, preset "mixed", when installed

Run by accuracy.py and end_to_end.py, so that a tool's imports count as its cost, as they do for its users.
"""

import argparse
import contextlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import networks

ORT_METHODS = {"ort-minmax": "MinMax", "ort-percentile": "Percentile", "ort-entropy": "Entropy"}
MODULES = {**dict.fromkeys(ORT_METHODS, "onnxruntime"), "nncf": "nncf"}


class Reader:
    """Calibration samples in the form that onnxruntime.quantization asks for."""

    def __init__(self, network: networks.Network) -> None:
        """Start at the first sample."""
        self.network = network
        self.set_range(0, network.samples)

    def __len__(self) -> int:
        """Count of samples."""
        return self.network.samples

    def __iter__(self) -> Iterator[networks.Feeds]:
        """The samples that are left."""
        return self.samples

    def get_next(self) -> networks.Feeds | None:
        """The next sample, or None after the last."""
        return next(self.samples, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with samples `start_index` to `end_index`."""
        self.samples = networks.feeds(self.network, start_index, end_index)


def raise_opset(source: Path, target: Path, opset: int) -> Path:
    """Write `source` with its default operator set raised to `opset`; the path of the file to go on with."""
    import onnx
    from onnx import version_converter

    model = onnx.load(source)
    current = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if current >= opset:
        return source
    onnx.save(version_converter.convert_version(model, opset), target)
    return target


def ort(network: networks.Network, output: Path, method: str, opset: int, stride: int) -> None:
    """onnxruntime.quantization.quantize_static; `stride` samples at a time are held (0: all, its default)."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    options = {"CalibStridedMinMax": stride} if stride else {}
    with tempfile.TemporaryDirectory() as folder:
        source = raise_opset(network.model, Path(folder) / "raised.onnx", opset)
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(source, prepared)
        except Exception as error:  # its symbolic shape inference raises bare Exception
            print(f"symbolic shape inference skipped: {error}", file=sys.stderr)
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            output,
            Reader(network),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod[method],
            extra_options=options,
        )


def nncf(network: networks.Network, output: Path) -> None:
    """nncf.quantize on the ONNX model."""
    import onnx

    tool = importlib.import_module("nncf")
    samples = list(networks.feeds(network, 0, network.samples))
    model = tool.quantize(onnx.load(network.model), tool.Dataset(samples), subset_size=network.samples)
    onnx.save(model, output)


def missing(tool: str) -> bool:
    """Whether the package of `tool` is not installed."""
    return importlib.util.find_spec(MODULES[tool]) is None


def main() -> None:
    """Quantize one network with one tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks.add_options(parser)
    parser.add_argument("tool", choices=list(MODULES))
    parser.add_argument("output", type=Path, help="the INT8 file to write")
    parser.add_argument("--samples", type=int, default=0, help="calibration samples (default: the network's own)")
    parser.add_argument("--opset", type=int, default=17, help="raise older models to this operator set (0: leave)")
    parser.add_argument("--stride", type=int, default=0, help="ORT: hold this many samples at a time (0: all)")
    args = parser.parse_args()
    (network,) = networks.find(args.assets, args.sentence_encoder, args.networks)
    if args.samples:
        network = networks.with_samples(network, args.samples)
    output = args.output.resolve()
    # onnx and onnxruntime leave scratch files in the working directory.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        if args.tool == "nncf":
            nncf(network, output)
        else:
            ort(network, output, ORT_METHODS[args.tool], args.opset, args.stride)


if __name__ == "__main__":
    main()
