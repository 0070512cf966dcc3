"""Promised: in whole networks every quantized tensor holds the integers that ONNX Runtime computes; what has no integer
kernel runs in real numbers; the machines differ where their arithmetic does.
"""

import re
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.errors import BadCalibration, BadOption
from halfeven.graph.lower import lower
from halfeven.report.judging import judged
from halfeven.report.paired_layers import saturating_layers, wrapping_layers
from halfeven.report.simulate import simulate
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import MACHINES, machine_named, this_machine
from halfeven.run.integer.partition import Partition
from halfeven.run.ort import OrtExecutor

Build = Callable[..., ir.Model]
HOME = files("halfeven.demo")


def pictures(name: str, count: int) -> np.ndarray:
    with np.load(str(HOME / name), allow_pickle=False) as stored:
        return ((stored["x"][:count, None].astype(np.float32) / 255 - 0.286) / 0.353).astype(np.float32)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ir.Model]:
    """The demonstration network, quantized for a target."""
    made: dict[str, ir.Model] = {}

    def quantized(target: str) -> ir.Model:
        if target not in made:
            result = halfeven.quantize(
                str(HOME / "fashion_mnist_mbv2.onnx"), pictures("calibration.npz", 16), target=target, verify=False
            )
            path = tmp_path_factory.mktemp(target) / "int8.onnx"
            result.save(path)
            made[target] = ir.load(path)
        return made[target]

    return quantized


def coded(executor: IntegerExecutor, model: ir.Model) -> tuple[str, ...]:
    made = {v.name for node in model.graph for v in node.outputs}
    return tuple(name for name, tensor in executor.tensors.items() if tensor.coded and name in made)


def test_every_quantized_tensor_of_the_demonstration_is_the_runtime_s(demo: Callable[[str], ir.Model]) -> None:
    model = demo("onnxruntime")
    executor = IntegerExecutor(lower(model), this_machine())
    names = coded(executor, model)
    feeds = {executor.network.inputs[0].name: pictures("test.npz", 8)}
    ours, theirs = executor(feeds, names), OrtExecutor(model, names)(feeds)
    assert len(names) > 30
    assert len(executor.integer_ops) > 30
    assert [name for name in names if not np.array_equal(ours[name], theirs[name])] == []


def test_signed_activations_run_partly_in_real_numbers_on_x86_and_on_codes_elsewhere(
    demo: Callable[[str], ir.Model],
) -> None:
    network = lower(demo("integer"))
    counts = {}
    for name in ("onnxruntime@x86-vnni", "onnxruntime@arm64", "onnxruntime@x86-vnni+int8", "integer"):
        kinds = [op.kind for op in IntegerExecutor(network, machine_named(name)).integer_ops]
        counts[name] = kinds.count("Conv")
    on_x86 = counts.pop("onnxruntime@x86-vnni")
    assert set(counts.values()) == {[op.kind for op in network.ops].count("Conv")}
    assert 0 < on_x86 < counts["integer"]


@pytest.mark.parametrize("name", ["onnxruntime@arm64", "integer"])
def test_machines_agree_with_each_other_but_for_a_few_codes(demo: Callable[[str], ir.Model], name: str) -> None:
    model = demo("integer")
    executors = [IntegerExecutor(lower(model), machine_named(m)) for m in ("onnxruntime@x86-vnni+int8", name)]
    names, feed = coded(executors[0], model), executors[0].network.inputs[0].name
    a, b = (executor({feed: pictures("test.npz", 4)}, names) for executor in executors)
    gaps = [np.abs(a[n].astype(int) - b[n].astype(int)) for n in names]
    assert max(gap.max() for gap in gaps) <= 8
    assert np.mean(np.concatenate([gap.ravel() for gap in gaps]) > 0) < 0.05


def test_threads_and_watching_change_no_integer(demo: Callable[[str], ir.Model]) -> None:
    network = lower(demo("onnxruntime"))
    feed = {network.inputs[0].name: pictures("test.npz", 3)}
    out = network.outputs[0].name
    machine = machine_named("onnxruntime@x86-vnni")
    alone, together = (IntegerExecutor(network, machine, threads)(feed)[out] for threads in (1, 3))
    np.testing.assert_array_equal(alone, together)
    names = [name for name, tensor in IntegerExecutor(network, machine).tensors.items() if tensor.coded]
    np.testing.assert_array_equal(IntegerExecutor(network, machine)(feed, names)[out], alone)


def written(build: Build, text: str, **arrays: np.ndarray) -> ir.Model:
    """A graph whose constants are these, as far as it reads them."""
    kinds = {"float32": "float"}
    names = set(re.findall(r"\w+", text))
    used = {name: x for name, x in arrays.items() if name in names}
    held = ", ".join(
        f"{kinds.get(x.dtype.name, x.dtype.name)}[{','.join(map(str, x.shape))}] {n}" for n, x in used.items()
    )
    return build(text.replace(" {", f" <{held}> {{", 1), opset=21, **used)


WIDE = {
    "w": np.full((2, 4, 1, 1), 127, np.int8),
    "s": np.array(0.5, np.float32),
    "t": np.array(300.0, np.float32),
    "z": np.array(0, np.uint8),
    "zi": np.array(0, np.int8),
}
SATURATING = (
    "g (uint8[1,4,3,3] x) => (uint8[1,2,3,3] y) { a = DequantizeLinear(x, s, z)  v = DequantizeLinear(w, s, zi)"
    "  [conv] c = Conv(a, v)  y = QuantizeLinear(c, t, z) }"
)


def test_pairs_saturate_without_vnni_and_the_layer_is_named(build: Build) -> None:
    model = written(build, SATURATING, **WIDE)
    feeds = {"x": np.full((1, 4, 3, 3), 255, np.uint8)}
    found = simulate(model, [("white", feeds)], "onnxruntime@x86-avx2", against="onnxruntime@x86-vnni")
    assert found.first is not None
    assert found.first.layer == "conv"
    assert found.first.rate == 1.0
    assert found.saturating == {"conv": 4}
    assert "part first at 'conv'" in found.sentence
    exact = 4 * 255 * 127 * 0.25 / 300
    np.testing.assert_array_equal(found.outputs[0]["y"], np.uint8(np.rint(2 * 32767 * 0.25 / 300)))
    same = simulate(model, [("white", feeds)], "onnxruntime@x86-vnni", against="onnxruntime@arm64")
    assert same.first is None
    np.testing.assert_array_equal(same.outputs[0]["y"], np.uint8(np.rint(exact)))


def test_weights_of_seven_bits_saturate_nowhere(build: Build) -> None:
    model = written(build, SATURATING, **WIDE | {"w": np.full((2, 4, 1, 1), 64, np.int8)})
    assert saturating_layers(lower(model)) == {}


def test_lowest_codes_wrap_on_arm_in_depthwise_layers_of_eight_channels_and_the_layer_is_named(build: Build) -> None:
    text = (
        "g (uint8[1,8,3,3] x) => (uint8[1,8,2,2] y) { a = DequantizeLinear(x, s, z)  v = DequantizeLinear(w, u, zw)"
        "  [conv] c = Conv<group=8>(a, v)  y = QuantizeLinear(c, t, z) }"
    )
    w = np.full((8, 1, 2, 2), 1, np.int8)
    w[3, 0, 0] = w[5, 0, :, 1] = -128  # taps 0 and 1, a pair; taps 1 and 3, none
    held = {"s": np.float32(1), "z": np.uint8(128), "w": w, "u": np.float32(1), "zw": np.int8(0), "t": np.float32(500)}
    model = written(build, text, **held)
    feeds = {"x": np.zeros((1, 8, 3, 3), np.uint8)}
    found = judged(model, [("black", feeds)], "onnxruntime@arm64")
    exact = -128.0 * w.sum((1, 2, 3), dtype=int)[None, :, None, None]
    wrapped = exact - 65536.0 * (np.arange(8) == 3)[None, :, None, None]
    made = np.clip(np.rint(wrapped / 500) + 128, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(found.simulation.outputs[0]["y"], np.broadcast_to(made, (1, 8, 2, 2)))
    assert found.simulation.wrapping == {"conv": 1}
    assert "1 depthwise layer can be off by 2^16" in found.advice
    narrow = written(build, text, **held | {"w": np.maximum(w, -127)})
    assert judged(narrow, [("black", feeds)], "onnxruntime@arm64").parted == []
    other = judged(model, [("black", feeds)], "onnxruntime@x86-vnni", "onnxruntime@arm64")
    assert (other.simulation.wrapping, len(other.parted)) == ({"conv": 1}, 1)
    assert judged(model, [("black", feeds)], "onnxruntime@x86-avx2").simulation.wrapping == {}


def test_layers_of_integer_operators_are_named_as_well(build: Build) -> None:
    held = {"s": np.float32(1), "z": np.uint8(0), "u": np.float32(1), "zw": np.int8(0), "t": np.float32(500)}
    held["w"] = np.full((8, 1, 2, 2), -128, np.int8)
    held["v"] = np.full((2, 8, 1, 1), 127, np.int8)
    text = (
        "g (uint8[1,8,3,3] x) => (uint8[1,2,2,2] y) { [deep] c = QLinearConv<group=8>(x, s, z, w, u, zw, t, z)"
        "  [point] y = QLinearConv(c, t, z, v, u, zw, t, z) }"
    )
    network = lower(written(build, text, **held))
    assert wrapping_layers(network) == {"deep": 16}
    assert saturating_layers(network) == {"point": 8}


DETOUR = (
    "g (float[2,3] x) => (float[2,3] y) { e = Exp(x)  q = QuantizeLinear(e, s, z)  d = DequantizeLinear(q, s, z)"
    "  m = Add(d, d)  p = QuantizeLinear(m, t, z)  f = DequantizeLinear(p, t, z)  n = Tanh(e)  y = Sub(n, f) }"
)


def test_regions_that_would_wait_for_each_other_stay_apart(build: Build) -> None:
    model = written(build, DETOUR, **WIDE | {"t": np.array(1.0, np.float32)})
    network = lower(model)
    executor = IntegerExecutor(network, machine_named("onnxruntime@x86-vnni"))
    kinds = [op.kind for op in network.ops]
    real = frozenset(i for i, op in enumerate(network.ops) if op not in executor.integer_ops)
    parts = [[kinds[i] for i in part] for part in Partition(network, real).ordered()]
    assert ["Tanh", "Sub"] in parts
    assert ["Exp"] in parts
    feeds = {"x": np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)}
    np.testing.assert_allclose(executor(feeds)["y"], OrtExecutor(model)(feeds)["y"], rtol=1e-6)


def test_a_clamp_that_codes_express_keeps_its_layer_real(build: Build) -> None:
    held = WIDE | {"six": np.array(6.0, np.float32), "none": np.array(0.0, np.float32)}
    text = SATURATING.replace("y = QuantizeLinear(c", "k = Clip(c, none, six)  y = QuantizeLinear(k")
    executor = IntegerExecutor(lower(written(build, text, **held)), machine_named("onnxruntime@x86-vnni"))
    assert [op.kind for op in executor.integer_ops] == []
    feeds = {"x": np.arange(36, dtype=np.uint8).reshape(1, 4, 3, 3)}
    model = written(build, text, **held)
    np.testing.assert_array_equal(executor(feeds)["y"], OrtExecutor(model)(feeds)["y"])


def test_a_float_bias_becomes_codes_as_the_runtime_makes_them(build: Build) -> None:
    text = SATURATING.replace("Conv(a, v)", "Conv(a, v, b)")
    held = WIDE | {"b": np.array([33.1, -7.9], np.float32), "t": np.array(31.0, np.float32)}
    model = written(build, text, **held | {"w": np.arange(-4, 4, dtype=np.int8).reshape(2, 4, 1, 1)})
    executor = IntegerExecutor(lower(model), this_machine())
    assert [op.kind for op in executor.integer_ops] == ["Conv"]
    feeds = {"x": np.arange(36, dtype=np.uint8).reshape(1, 4, 3, 3)}
    np.testing.assert_array_equal(executor(feeds)["y"], OrtExecutor(model)(feeds)["y"])


def test_what_is_asked_wrongly_is_said(build: Build) -> None:
    executor = IntegerExecutor(lower(written(build, SATURATING, **WIDE)), machine_named("integer"))
    with pytest.raises(BadOption, match="no tensor 'nowhere'"):
        executor({"x": np.zeros((1, 4, 3, 3), np.uint8)}, ["nowhere"])
    with pytest.raises(BadCalibration, match="'x' is not fed"):
        executor({})
    with pytest.raises(BadOption, match="Did you mean 'onnxruntime@arm64'"):
        machine_named("onnxruntime@arm")


def test_every_machine_says_how_exact_it_is() -> None:
    assert all(machine.source and machine.evidence for machine in MACHINES.values())


BRANCH = (
    "g (float[2] x, bool c) => (float[2] y) { q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  e = Exp(x)"
    "  n = If(c) <then_branch = t () => (float[2] a) { a = Add(d, e) },"
    " else_branch = f () => (float[2] b) { b = Mul(e, t) }>  y = Neg(n) }"
)


@pytest.mark.parametrize("chosen", [True, False])
def test_bodies_of_an_if_see_what_is_outside(build: Build, chosen: bool) -> None:
    model = written(build, BRANCH, **WIDE)
    feeds = {"x": np.array([0.3, 1.7], np.float32), "c": np.array(chosen)}
    ours = IntegerExecutor(lower(model), machine_named("onnxruntime@x86-vnni"))(feeds)["y"]
    np.testing.assert_allclose(ours, OrtExecutor(model)(feeds)["y"], rtol=1e-6)


def test_a_watched_real_tensor_is_given_too(build: Build) -> None:
    model = written(build, DETOUR, **WIDE | {"t": np.array(1.0, np.float32)})
    feeds = {"x": np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)}
    found = IntegerExecutor(lower(model), machine_named("onnxruntime@x86-vnni"))(feeds, ["n", "q"])
    np.testing.assert_allclose(found["n"], np.tanh(np.exp(feeds["x"])), rtol=1e-6)
    assert found["q"].dtype == np.uint8
