"""How many codes of ExecuTorch's XNNPACK differ from those of a simulated machine, operator by operator.

    python benchmarks/exactness_executorch.py                                           # the demo network
    python benchmarks/exactness_executorch.py --model NET.onnx --data PHOTOS --preprocess imagenet --limit 4

The network is quantized for ExecuTorch and compiled with every quantized tensor as an output beside its own: such an
output is read through a dequantization, and leaves the int8 kernels as they are. The machine runs the same plan.
"""

import argparse
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import networks
import numpy as np

import halfeven
from halfeven.draft import Draft
from halfeven.exporters.executorch.module import TracedNetwork
from halfeven.exporters.executorch.steps import step_of
from halfeven.exporters.litert.fixing import fixed
from halfeven.exporters.onnx import write_qdq
from halfeven.feeding import open_data
from halfeven.graph.network import Network, Tensor
from halfeven.report.sides import in_order, pairs, sides
from halfeven.run.executorch import compiled, open_executorch


def watched(draft: Draft, path: Path) -> tuple[Network, list[Tensor]]:
    """Write a program that gives its quantized tensors too; they are returned with the network."""
    network = fixed(draft, 1)
    coded = [tensor for op in network.ops for tensor in op.outputs if tensor.coded]
    whole = replace(network, outputs=(*network.outputs, *coded))
    names = {"inputs": [t.name for t in whole.inputs], "outputs": [t.name for t in whole.outputs]}
    zeros = [np.zeros([d for d in t.shape or () if isinstance(d, int)], t.dtype.numpy()) for t in network.inputs]
    path.write_bytes(compiled(TracedNetwork(whole, step_of), zeros, names))
    return network, coded


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="default: the demo network")
    parser.add_argument("--data", type=Path, help="its calibration data, also those that are compared")
    parser.add_argument("--preprocess", default="", help="how pictures are read")
    parser.add_argument("--machine", default="litert@xnnpack", help="default: %(default)s")
    parser.add_argument("--limit", type=int, default=32, metavar="N", help="samples to compare; default %(default)s")
    args = parser.parse_args()
    chosen = networks.demo() if args.model is None else None
    model, data = (args.model, args.data) if chosen is None else (chosen.model, chosen.data)
    how = args.preprocess or None
    draft = halfeven.quantize(model, data, preprocess=how, target="executorch", verify=False).draft
    samples = list(open_data(draft.model, data, {"preprocess": how, "limit": args.limit}, held_out=False).calibration)
    with tempfile.TemporaryDirectory() as folder:
        pte, qdq = Path(folder) / "all.pte", Path(folder) / "qdq.onnx"
        network, coded = watched(draft, pte)
        write_qdq(draft, qdq)
        machine, named = sides(qdq, [args.machine, "integer"], samples[:1])
        run, common = open_executorch(pte), pairs(named, machine)
        kinds = {tensor.name: op.kind for op in network.ops for tensor in op.outputs}
        total: Counter[str] = Counter()
        off: Counter[str] = Counter()
        for label, feeds in samples:
            found, theirs = run(feeds, label), machine(feeds, list(common.values()))[1]
            for tensor in (t for t in coded if t.name in common and t.params is not None):
                assert tensor.params is not None
                ours = np.rint(found[tensor.name] / tensor.params.scale.ravel()[0]).astype(np.int64)
                other = in_order(ours, machine.offsets(common[tensor.name], theirs[common[tensor.name]]))
                if other is not None:
                    total[kinds[tensor.name]] += ours.size
                    off[kinds[tensor.name]] += int((ours != other).sum())
    print(f"{len(samples)} samples, ExecuTorch and {args.machine}; {len(common)} of {len(coded)} tensors compared")
    for kind, count in total.most_common():
        print(f"{kind:<18} {count:>12} codes {off[kind]:>10} differ")


if __name__ == "__main__":
    main()
