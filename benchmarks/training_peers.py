"""Quantization-aware training in other libraries, and the loop that trains what they prepare.

    float       the float network, trained on as the others are: what more training alone is worth
    torchao     pt2e: export, prepare_qat_pt2e with its XNNPACK quantizer (weights per channel, ranges that move),
                convert_pt2e. Fewer bits by the quantizer's own limits of codes, first and last layer at 8
    brevitas    QuantConv2d and QuantReLU, weights per channel, scales of activations learned after calibration; first
                and last layer at 8 bits. Binary: SignedBinaryWeightPerTensorConst
    nncf        nncf.quantize, then training; it has 8 bits

The loop is that of `halfeven.train`: the same order of pictures, loss (labels and the float network's scores), Adam,
rates and warm-up; BatchNormalization is frozen at the end where it is a module.
"""

import copy
import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from training_networks import Array, Layers, classifier

CALIBRATION = 128
MODULES = {"float": "torch", "torchao": "torchao", "brevitas": "brevitas", "nncf": "nncf"}
Finish = Callable[[Any], Any]


@dataclass(frozen=True)
class Schedule:
    """How all are trained; the fields of `halfeven.training.loop.Recipe` of these names."""

    epochs: int = 3
    batch: int = 32
    rate: float = 1e-3
    scale_rate: float = 1e-2
    warmup: float = 0.05
    frozen: float = 0.3
    seed: int = 0


def missing(tool: str) -> bool:
    """Whether the package of `tool` is not installed."""
    return importlib.util.find_spec(MODULES[tool]) is None


def offers(tool: str, bits: tuple[int, int]) -> bool:
    """Whether a library has codes of so many bits, of weights and activations."""
    return {"torchao": bits[0] > 1, "nncf": bits == (8, 8)}.get(tool, True)


def prepared(tool: str, name: str, model: Path, bits: tuple[int, int], x: Array) -> tuple[Any, Finish]:
    """What is trained, and what makes of it the network that is scored; `x` calibrates."""
    some = torch.tensor(x[:CALIBRATION])
    if tool == "float":
        return classifier(name, Layers(), model), nn.Module.eval
    if tool == "torchao":
        return _torchao(classifier(name, Layers(), model), bits, some)
    return _brevitas(name, model, bits, some) if tool == "brevitas" else _nncf(classifier(name, Layers(), model), some)


def _torchao(network: nn.Module, bits: tuple[int, int], some: Any) -> tuple[Any, Finish]:
    pt2e = importlib.import_module("torchao.quantization.pt2e")
    steps = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    xnnpack = importlib.import_module("torchao.testing.pt2e._xnnpack_quantizer")

    def configured(weight: int, activation: int) -> Any:
        low, high = -(1 << (activation - 1)), (1 << (activation - 1)) - 1
        top = (1 << (weight - 1)) - 1
        return xnnpack.get_symmetric_quantization_config(
            is_per_channel=True,
            is_qat=True,
            act_qmin=low,
            act_qmax=high,
            weight_qmin=-top if weight == 8 else -top - 1,
            weight_qmax=top,
        )

    quantizer = xnnpack.XNNPACKQuantizer().set_global(configured(*bits))
    if bits != (8, 8):
        for outer in ("f.0", "fc"):
            quantizer.set_module_name(outer, configured(8, 8))
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(network.train(), (some,), dynamic_shapes=({0: batch},)).module()
    ready = pt2e.allow_exported_model_train_eval(steps.prepare_qat_pt2e(exported, quantizer))
    return ready, _converted


def _converted(trained: Any) -> Any:
    trained.eval()  # gives nothing back
    return importlib.import_module("torchao.quantization.pt2e.quantize_pt2e").convert_pt2e(trained)


def _brevitas(name: str, model: Path, bits: tuple[int, int], some: Any) -> tuple[Any, Finish]:
    qnn, quant = importlib.import_module("brevitas.nn"), importlib.import_module("brevitas.quant")
    calibration_mode = importlib.import_module("brevitas.graph.calibrate").calibration_mode
    per_channel, binary = quant.Int8WeightPerChannelFloat, quant.SignedBinaryWeightPerTensorConst
    weight, activation = bits
    inner = {"weight_quant": binary} if weight == 1 else {
        "weight_quant": per_channel, "weight_bit_width": weight
    }  # fmt: skip

    def conv(*args: Any, **options: Any) -> Any:
        return qnn.QuantConv2d(*args, **options, **inner)

    layers = Layers(
        conv=conv,
        relu=lambda: qnn.QuantReLU(bit_width=activation),
        relu6=lambda: nn.Sequential(nn.ReLU6(), qnn.QuantReLU(bit_width=activation)),
        linear=lambda *args: qnn.QuantLinear(*args, bias=True, weight_quant=per_channel),
        between=lambda: qnn.QuantIdentity(bit_width=activation),
        outer_conv=lambda *args, **options: qnn.QuantConv2d(*args, **options, weight_quant=per_channel),
        outer=lambda: qnn.QuantIdentity(bit_width=8),
    )
    network = classifier(name, layers, model)
    with torch.no_grad(), calibration_mode(network):
        network(some)
    return network, nn.Module.eval


def _nncf(network: nn.Module, some: Any) -> tuple[Any, Finish]:
    nncf = importlib.import_module("nncf")
    data = nncf.Dataset(list(some.split(1)))
    return nncf.quantize(network, data, subset_size=len(some)), nn.Module.eval


def trained(network: Any, teacher: Any, x: Array, y: Array, schedule: Schedule) -> float:
    """Train in place; seconds a step."""
    optimizer = torch.optim.Adam(network.parameters(), schedule.rate)
    steps = -(-len(x) // schedule.batch) * schedule.epochs
    step, rng, start = 0, np.random.default_rng(schedule.seed), time.perf_counter()
    network.train()
    for _ in range(schedule.epochs):
        order = rng.permutation(len(x))
        for begin in range(0, len(order), schedule.batch):
            chosen = order[begin : begin + schedule.batch]
            share = step / steps
            if share >= 1 - schedule.frozen:
                _freeze(network)
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate * _rate_at(share, schedule.warmup)
            inputs = torch.tensor(x[chosen])
            with torch.no_grad():
                wanted = teacher(inputs).log_softmax(1)
            scores = network(inputs)
            loss = nn.functional.kl_div(scores.log_softmax(1), wanted, reduction="batchmean", log_target=True)
            loss = loss + nn.functional.cross_entropy(scores, torch.tensor(y[chosen]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    return (time.perf_counter() - start) / steps


def _rate_at(share: float, warmup: float) -> float:
    if share < warmup:
        return (share + 1e-3) / warmup
    return (1 + math.cos(math.pi * (share - warmup) / max(1 - warmup, 1e-9))) / 2


def _freeze(network: Any) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


def teacher_of(name: str, model: Path) -> Any:
    """The float network that all learn from."""
    return copy.deepcopy(classifier(name, Layers(), model)).requires_grad_(False)
