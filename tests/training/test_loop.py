# ruff: noqa: E402
"""Promised: the ready loop learns from the float network alone or with labels, repeats itself to the bit, freezes
BatchNormalization at the end, and says what diverged.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from halfeven import api, qat, ready_loop
from halfeven.errors import BadCalibration, BadOption, QuantError
from halfeven.training.loop import Recipe, fit

nn, F = torch.nn, torch.nn.functional


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(1, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def readers(count: int = 48) -> list[Any]:
    """Pictures brighter with their class."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, count)
    pictures = (rng.standard_normal((count, 1, 1, 8, 8)) + classes.reshape(-1, 1, 1, 1, 1)).astype(np.float32)
    return [lambda i=i: ({"x": pictures[i]}, int(classes[i])) for i in range(count)]


def network() -> Any:
    torch.manual_seed(0)
    return qat.prepare(Small(), torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)))


def test_the_loop_learns_and_repeats_itself() -> None:
    recipe = Recipe(epochs=6, batch=16, rate=5e-3)
    first, second = network(), network()
    history = fit(first, readers(), recipe)
    assert history.mean(slice(-3, None)) < history.mean(slice(0, 3))
    assert fit(second, readers(), recipe).losses == history.losses
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not first.training
    assert {norm.kind for norm in first.live_norms().values()} == {"frozen"}


def test_without_labels_the_float_network_teaches() -> None:
    unlabelled = [lambda r=r: (r()[0], None) for r in readers()]
    history = fit(network(), unlabelled, Recipe(epochs=6, batch=16, rate=2e-3, damping=0.1))
    assert history.mean(slice(-3, None)) <= history.mean(slice(0, 3))
    with pytest.raises(BadOption, match="nothing to train for"):
        fit(network(), unlabelled, Recipe(distill=0.0))


class Filtered(nn.Module):
    """Its second convolution has a buffer for a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.register_buffer("filters", torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Any) -> Any:
        return F.conv2d(torch.relu(self.conv(x)), self.filters).mean((2, 3))


def test_weights_that_are_buffers_are_not_damped_and_stay() -> None:
    module = Filtered().eval()
    trained = qat.prepare(module, torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    fit(trained, readers(), Recipe(epochs=1, rate=1e-3, damping=0.1))
    assert torch.equal(trained.filters, module.filters)
    assert not torch.equal(trained.conv.weight, module.conv.weight)


def rows(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def perceptron(*sizes: int) -> Any:
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).eval()


def alone(network: Any, x: Any) -> list[Any]:
    """Rows without classes, for the only input."""
    name = network.program.inputs[0]
    return [lambda row=row: ({name: row}, None) for row in x]


def test_weights_in_blocks_are_damped() -> None:
    x, losses = rows(8, 1, 64), []
    for damping in (0.0, 10.0):
        trained = qat.prepare(perceptron(64, 32, 3), torch.tensor(x[:, 0]), mode="weight-only", bits=4, block=16)
        assert {(32, 4), (3, 2)} <= {tuple(layer.zero_point.shape) for layer in trained.quantizers.values()}
        losses.append(fit(trained, alone(trained, x), Recipe(epochs=2, batch=4, damping=damping)).losses)
    assert losses[1][0] == losses[0][0]
    assert 0.1 < losses[1][1] - losses[0][1] < 10 / 12  # the mean square of rounding, or less, as lambda is not full


def test_a_batch_of_one_number_weighs_no_more_than_others() -> None:
    trained = qat.prepare(perceptron(8, 16, 1), torch.tensor(rows(16, 8)))
    losses = fit(trained, alone(trained, rows(33, 1, 8)), Recipe(epochs=3, batch=16)).losses
    assert len(losses) == 9  # each third is of one sample, whose output has no variance
    assert max(losses) < 1


def given(*shape: int) -> onnx.ModelProto:
    """A product of rows, times an input of a shape of its own."""
    weight = onnx.numpy_helper.from_array(rows(8, 4), "w")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["m"]), onnx.helper.make_node("Mul", ["m", "s"], ["y"])]
    shapes = {"x": ["N", 8], "s": shape, "y": ["N", 4]}
    x, s, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, d) for n, d in shapes.items())
    graph = onnx.helper.make_graph(nodes, "g", [x, s], [y], [weight])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_an_input_without_a_batch_axis_is_trained_with_one_by_one_and_else_it_is_said(shape: tuple[int, ...]) -> None:
    data = [{"x": row, "s": np.full(shape, 2, np.float32)} for row in rows(6, 1, 8)]
    _, trained = ready_loop.train(given(*shape), data, recipe={"epochs": 1, "batch": 1, "rate": 1e-2})
    assert not np.array_equal(trained.get_parameter("w").detach(), rows(8, 4))
    with pytest.raises(QuantError, match=r"Use --batch 1\.|if the network takes them one by one, use --batch 1\."):
        ready_loop.train(given(*shape), data, recipe={"epochs": 1, "batch": 3})


def test_a_class_without_a_score_is_named() -> None:
    for number in (3, -1):
        sentence = rf"A sample is of class {number}, and the network has scores of 3 classes, 0 to 2\."
        with pytest.raises(BadCalibration, match=sentence):
            fit(network(), [lambda n=number: ({"x": rows(1, 1, 8, 8)}, n)], Recipe())


def test_a_network_of_which_nothing_is_trained_is_refused() -> None:
    frozen = qat.prepare(Small().eval().requires_grad_(False), torch.zeros(8, 1, 8, 8), scales="fixed")
    with pytest.raises(BadOption, match="Nothing is trained: what the outputs are computed from is all kept out"):
        fit(frozen, readers(4), Recipe())


def test_a_training_that_diverges_says_where() -> None:
    def poisoned() -> Any:
        return {"x": np.full((1, 1, 8, 8), np.inf, np.float32)}, 0

    with pytest.raises(BadCalibration, match=r"quantizers\.\d+ was given infinity in 'x', an input of the network"):
        fit(network(), [poisoned], Recipe())
    unwatched = network()
    unwatched.check_finite = False
    with pytest.raises(BadOption, match=r"diverged in step 1: the loss is nan, and on the way back the first gradient"):
        fit(unwatched, [poisoned], Recipe())


def test_a_typo_in_the_recipe_is_answered_with_the_nearest_option() -> None:
    with pytest.raises(BadOption, match=r"there is no option 'epoch'. Did you mean 'epochs'"):
        ready_loop.train(Small(), np.zeros((8, 1, 8, 8), np.float32), recipe={"epoch": 1})
    with pytest.raises(BadOption, match=r"epochs is of the recipe: write recipe={'epochs': 1}"):
        ready_loop.train(Small(), np.zeros((8, 1, 8, 8), np.float32), epochs=1)
    with pytest.raises(BadOption, match="recipe 'fast': expected a Recipe, or its fields by name"):
        ready_loop.train(Small(), np.zeros((8, 1, 8, 8), np.float32), recipe="fast")
    with pytest.raises(BadOption, match="rate 'fast'; a number is needed"):
        Recipe.of({"rate": "fast"})
    assert Recipe.of({"features": 1, "feature_tensors": "*"}).feature_tensors == ("*",)


def test_a_recipe_may_be_one_and_have_numbers_of_numpy() -> None:
    recipe = Recipe.of({"epochs": np.int64(2), "rate": np.float32(0.5)})
    assert recipe == Recipe(epochs=2, rate=0.5)
    assert type(recipe.epochs) is int
    with pytest.raises(BadOption, match="epochs True; a whole number is needed"):
        Recipe.of({"epochs": np.bool_(True)})
    x = np.random.default_rng(0).standard_normal((12, 1, 8, 8)).astype(np.float32)
    steps: list[int | None] = []
    ready_loop.train(
        Small().eval(),
        x,
        example_inputs=torch.zeros(2, 1, 8, 8),
        recipe=Recipe(epochs=1, batch=4),
        progress=lambda task, done, total: steps.append(total) if task == "train" else None,
    )
    assert set(steps) == {len(steps)}
    assert len(steps) < 4


@pytest.mark.parametrize("mode", ["dynamic", "float"])
def test_training_is_of_static_plans(mode: str) -> None:
    x = torch.randn(4, 1, 8, 8)
    with pytest.raises(BadOption, match=f"mode '{mode}': training is of static plans"):
        qat.prepare(Small(), x, mode=mode)
    plan = api.quantize(Small().eval(), x.numpy(), example_inputs=x, mode="dynamic", verify=False).plan
    with pytest.raises(BadOption, match=r"activations whose scales each run finds .*: training is of static plans"):
        qat.prepare(Small(), x, plan=plan)


def test_what_cannot_be_trained_with_is_said() -> None:
    with pytest.raises(BadCalibration, match="no sample to train with"):
        fit(network(), [], Recipe())
    mixed = [lambda n=n: ({"x": np.zeros((1, 1, n, n), np.float32)}, 0) for n in (8, 9)]
    with pytest.raises(BadCalibration, match="different shapes"):
        fit(network(), mixed, Recipe())
    with pytest.raises(BadOption, match="rate nan"):
        Recipe(rate=float("nan"))
    with pytest.raises(BadOption, match="epochs 0"):
        Recipe(epochs=0)


class Nested(nn.Module):
    """Has parameters of one element, and gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.slope, self.head = nn.Linear(8, 8), nn.PReLU(), nn.Linear(8, 4)
        self.gain, self.kept = nn.Parameter(torch.tensor(1.5)), nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: Any) -> Any:
        return {"y": self.kept(torch.relu(self.head(self.slope(self.stem(x)) * self.gain)))}


def test_train_trains_what_prepare_would_and_it_is_restored() -> None:
    torch.manual_seed(0)
    module = Nested().eval()
    recipe = Recipe(epochs=2, batch=8, rate=1e-2)
    result, trained = ready_loop.train(module, rows(24, 8), example_inputs=torch.zeros(1, 8), recipe=recipe)
    assert isinstance(trained(torch.zeros(2, 8)), dict)
    assert any("not trained, as in the module, the first being 'kept.weight'" in note for note in result.notes)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    own = dict(trained.named_parameters())
    assert before.keys() <= own.keys()
    after = qat.restore(module, trained).state_dict()
    assert {name for name in before if torch.equal(after[name], before[name])} == {"kept.weight", "kept.bias"}


def test_train_gives_a_judged_result() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 1, 8, 8)).astype(np.float32)
    torch.manual_seed(0)
    module = Small()
    for _ in range(40):  # statistics of a network that was trained are those of its data
        module(torch.tensor(x))
    result, trained = ready_loop.train(module, x, example_inputs=torch.zeros(2, 1, 8, 8), recipe={"epochs": 1})
    assert result.verification is not None
    assert result.verification.sqnr_db > 10
    assert not trained.training
