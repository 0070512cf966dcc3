"""Promised: an option exists once, as a field of a step; Python, configuration file and command line mean the same by
it, and flags overrule the file.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import halfeven
from halfeven.cli import main
from halfeven.errors import BadOption
from halfeven.graph.plan import Plan
from halfeven.options import OPTIONAL, SHORT, STEPS, all_options, check_setting, make_steps, read_config
from halfeven.stats.estimate import METHODS
from halfeven.steps.calibrate import Calibrate

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,8,8] x) => (float[N,5] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w2)  e = Flatten(c)  y = MatMul(e, w3)
}"""
SETTINGS = ("target", "preprocess", "labels", "holdout", "limit", "io", "skip", "seed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.onnx, and x.npz of 24 samples with outliers, so that methods differ."""
    home = tmp_path_factory.mktemp("options")
    rng = np.random.default_rng(3)
    model = onnx.parser.parse_model(NET)
    for name, shape in {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (512, 5)}.items():
        array = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, home / "net.onnx")
    np.savez(home / "x.npz", x=rng.standard_t(2, (24, 3, 8, 8)).astype(np.float32))
    return home


CASES: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "method": (
        {"calibrate": "percentile", "percentile": 99.0},
        '[calibrate]\nmethod = "percentile"\npercentile = 99',
        ("--calibrate", "percentile", "--percentile", "99"),
    ),
    "power": (
        {"calibrate": "lp", "calibrate_p": 6.0},
        '[calibrate]\nmethod = "lp"\np = 6',
        ("--calibrate", "lp", "--calibrate-p", "6"),
    ),
    "deviations": (
        {"calibrate": "sigma", "calibrate_sigmas": 1.5},
        '[calibrate]\nmethod = "sigma"\nsigmas = 1.5',
        ("--calibrate", "sigma", "--calibrate-sigmas", "1.5"),
    ),
    "fitted": ({"calibrate": "aciq"}, '[calibrate]\nmethod = "aciq"', ("--calibrate", "aciq")),
    "threshold": ({"calibrate": "octav"}, '[calibrate]\nmethod = "octav"', ("--calibrate", "octav")),
    "in turns": ({"calibrate": "admm"}, '[calibrate]\nmethod = "admm"', ("--calibrate", "admm")),
    "patterns": (
        {"keep_float": ("MatMul", "Conv_a"), "reduce_range": ("Conv*",), "tensors": ("b=minmax",)},
        '[place]\nkeep_float = ["MatMul", "Conv_a"]\nreduce_range = ["Conv*"]\n[calibrate]\ntensors = ["b=minmax"]',
        ("--keep-float", "MatMul", "--keep-float", "Conv_a", "--reduce-range", "Conv*", "--tensors", "b=minmax"),
    ),
    "numbers": (
        {"equalize_samples": 4, "equalize_limit": 2.0, "observe_elements": 50},
        "[equalize]\nsamples = 4\nlimit = 2\n[observe]\nelements = 50",
        ("--equalize-samples", "4", "--equalize-limit", "2", "--observe-elements", "50"),
    ),
    "settings": (
        {"target": "tensorrt", "limit": 7, "skip": ("equalize",)},
        'target = "tensorrt"\nlimit = 7\nskip = "equalize"',
        ("--target", "tensorrt", "--limit", "7", "--skip", "equalize"),
    ),
}


def by_command(folder: Path, tmp_path: Path, *words: str) -> Plan:
    """The plan that the command line makes."""
    model, data, plan = (str(path) for path in (folder / "net.onnx", folder / "x.npz", tmp_path / "plan.json"))
    start = ["quantize", model, "--data", data, "--no-verify", "--quiet", "-o", str(tmp_path / "out.onnx")]
    assert main([*start, "--save-plan", plan, *words]) == 0
    return Plan.load(plan)


@pytest.mark.parametrize("case", CASES)
def test_python_file_and_command_line_give_one_plan(folder: Path, tmp_path: Path, case: str) -> None:
    options, toml, words = CASES[case]
    place = '[place]\nprefer = "size"\n'
    (tmp_path / "q.toml").write_text(toml.replace("[place]\n", place) if "[place]" in toml else f"{toml}\n{place}")
    model, data = folder / "net.onnx", folder / "x.npz"
    plans = [
        halfeven.quantize(model, data, verify=False, prefer="size", **options).plan,
        halfeven.quantize(model, data, verify=False, config=tmp_path / "q.toml").plan,
        by_command(folder, tmp_path, *words, "--prefer", "size"),
        by_command(folder, tmp_path, "--config", str(tmp_path / "q.toml")),
    ]
    default = halfeven.quantize(model, data, verify=False, prefer="size").plan
    assert len({plan.digest for plan in plans}) == 1
    assert default.digest != plans[0].digest


def test_the_options_of_an_estimator_change_what_it_does(folder: Path) -> None:
    for method, name, values in (("lp", "calibrate_p", (1.0, 2.4, 8.0)), ("sigma", "calibrate_sigmas", (1.0, 6.0))):
        given = {"calibrate": method, "prefer": "size", "verify": False}
        plans = [halfeven.quantize(folder / "net.onnx", folder / "x.npz", **given, **{name: v}).plan for v in values]  # type: ignore[arg-type]
        assert len({plan.digest for plan in plans}) == len(values)


def test_every_option_of_an_estimator_is_a_field_with_its_default() -> None:
    defaults = {field.name: field.default for field in fields(Calibrate)}
    for method in METHODS.values():
        assert method.options.items() <= defaults.items()


@pytest.mark.parametrize("tensors", [("q*=mse",), ("b",), ("b=best",)])
def test_a_pattern_that_fits_nothing_is_refused_before_the_data_are_run(folder: Path, tensors: tuple[str, ...]) -> None:
    tasks: list[str] = []
    with pytest.raises(BadOption, match=r"--tensors|no calibration method"):
        halfeven.quantize(
            folder / "net.onnx",
            folder / "x.npz",
            prefer="size",
            tensors=tensors,
            progress=lambda t, i, n: tasks.append(t),
        )
    assert tasks == []
    halfeven.quantize(
        folder / "net.onnx",
        folder / "x.npz",
        prefer="size",
        tensors=("b=mse",),
        progress=lambda t, i, n: tasks.append(t),
    )
    assert "observe" in tasks


def test_flags_overrule_the_file_even_with_the_default(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "q.toml"
    config.write_text('target = "tensorrt"\n[place]\nprefer = "size"\n[calibrate]\nmethod = "minmax"')
    flags = ("--target", "onnxruntime", "--calibrate", "auto")
    overruled = by_command(folder, tmp_path, "--config", str(config), *flags)
    plain = by_command(folder, tmp_path, "--prefer", "size")
    assert overruled.digest == plain.digest
    assert by_command(folder, tmp_path, "--config", str(config)).digest != plain.digest
    called = halfeven.quantize(
        folder / "net.onnx", folder / "x.npz", verify=False, config=config, target="onnxruntime", calibrate="auto"
    )
    assert called.plan.digest == plain.digest


def test_what_was_set_stands_in_the_file(folder: Path, tmp_path: Path) -> None:
    by_command(folder, tmp_path, "--prefer", "size", "--calibrate", "mse")
    properties = {p.key: p.value for p in onnx.load(tmp_path / "out.onnx").metadata_props}
    said = json.loads(properties["halfeven.options"])
    assert (said["prefer"], said["calibrate"]) == ("size", "mse")


def test_every_field_of_every_step_is_one_option() -> None:
    options = all_options()
    assert [(o.step, o.field) for o in options.values()] == [(s, f.name) for s, c in STEPS.items() for f in fields(c)]  # type: ignore[arg-type]
    assert {(o.step, o.field): o.name for o in options.values()}.items() >= SHORT.items()
    assert len({o.flag for o in options.values()}) == len(options)
    assert all(o.help and o.help[-1] == "." for o in options.values())
    for option in options.values():
        assert option.many or isinstance(option.default, option.kind)


def test_the_default_steps_are_those_without_options() -> None:
    assert make_steps({}) == {name: cls() for name, cls in STEPS.items()}
    assert list(make_steps({}, ("gptq",))) == [name for name in STEPS if name != "gptq"]
    assert make_steps({"gptq_damping": 0.5}, OPTIONAL).keys() == STEPS.keys() - set(OPTIONAL)


def test_a_whole_number_will_do_for_a_real_and_one_text_for_several() -> None:
    steps = make_steps({"percentile": 99, "keep_float": "Conv", "tensors": ["a=mse", "b=minmax"]})
    assert steps["calibrate"] == STEPS["calibrate"](percentile=99.0, tensors=("a=mse", "b=minmax"))  # type: ignore[call-arg]
    assert steps["place"] == STEPS["place"](keep_float=("Conv",))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibrat": "mse"}, "There is no option 'calibrat'. Did you mean 'calibrate'?"),
        ({"zzz": 1}, "There are: simplify_opset"),
        ({"calibrate": 3}, "--calibrate 3: expected a text"),
        ({"calibrate": "mean"}, "there is no such method; choose one of minmax"),
        ({"calibrate_p": 0.5}, "--calibrate-p 0.5: expected a number from 1 to 16"),
        ({"calibrate_sigmas": 0}, "--calibrate-sigmas 0.0: expected a number of at least 0.01"),
        ({"percentile": "99"}, "--percentile '99': expected a number, for instance 99.99"),
        ({"percentile": True}, "--percentile True: expected a number"),
        ({"percentile": float("inf")}, "--percentile inf"),
        ({"equalize_samples": 2.0}, "--equalize-samples 2.0: expected a whole number"),
        ({"observe_vectors": 0}, "of at least 1"),
        ({"keep_float": 5}, "--keep-float 5: expected a list of texts"),
        ({"keep_float": ["a", 5]}, "expected a list of texts"),
        ({"prefer": "sise"}, "choose one of speed, size. Did you mean 'size'?"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadOption) as caught:
        make_steps(options)
    assert message in str(caught.value)


def test_only_optional_steps_can_be_left_out() -> None:
    with pytest.raises(BadOption, match="only equalize, gptq, absorb, expect and correct can be left out"):
        make_steps({}, ("place",))


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", 0), ("limit", 1.5), ("limit", True), ("seed", -1), ("target", "x"), ("target", 3), ("io", "int4")],
)
def test_settings_are_checked_in_python_too(name: str, value: object, folder: Path) -> None:
    with pytest.raises(BadOption, match=f"--{name} "):
        check_setting(name, value)
    with pytest.raises(BadOption, match=f"--{name} "):
        halfeven.quantize(folder / "net.onnx", folder / "x.npz", **{name: value})  # type: ignore[arg-type]


def test_the_file_gives_settings_and_options_apart(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text('limit = 3\nskip = ["gptq"]\n[preprocess]\npreset = "unit"\n[gptq]\ndamping = 1')
    top, options = read_config(tmp_path / "q.toml", SETTINGS)
    assert top == {"limit": 3, "skip": ("gptq",), "preprocess": {"preset": "unit"}}
    assert options == {"gptq_damping": 1.0}
