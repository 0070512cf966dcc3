"""Every node and tensor gets a unique name; what was unique, and the interface, stay; nothing else changes."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.graph.edit import graphs, values
from halfeven.graph.names import name_everything

Build = Callable[..., ir.Model]

CLASHES = """
agraph (float[2] x, bool c) => (float[2] y, float[2] t) {
  [same] h = Relu(x)
  [same] k = Relu(h)
  t = If (c) <
    then_branch = a () => (float[2] r) { [same] h_1 = Exp(k)  r = Neg(h_1) },
    else_branch = b () => (float[2] r) { r = Neg(k) }
  >
  y = Add(t, k)
}
"""


def _all_names(model: ir.Model) -> tuple[list[str], list[str]]:
    nodes = [node.name or "" for graph in graphs(model) for node in graph]
    return nodes, [value.name or "" for graph in graphs(model) for value in values(graph)]


def test_all_names_become_unique_and_what_was_unique_stays(build: Build) -> None:
    model = build(CLASHES)
    name_everything(model)
    nodes, tensors = _all_names(model)
    assert len(set(nodes) - {""}) == len(nodes)
    assert len(set(tensors) - {""}) == len(tensors)
    assert nodes == ["same", "same_1", "If_t", "Add_y", "same_2", "Neg_r", "Neg_r_1"]
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["x", "c", "y", "t"]
    assert {"h", "k", "h_1", "r", "r_1"} < set(tensors)


def test_naming_twice_changes_nothing_more(build: Build) -> None:
    model = build(CLASHES)
    name_everything(model)
    once = ir.to_onnx_text(model)
    name_everything(model)
    assert ir.to_onnx_text(model) == once


@pytest.mark.parametrize("condition", [True, False])
def test_renaming_does_not_change_what_is_computed(
    build: Build, compute: Callable[..., list[np.ndarray]], condition: bool
) -> None:
    model = build(CLASHES.replace("[same] k", "k"))  # ONNX Runtime takes no two nodes of one name in one graph
    feeds = {"x": np.array([-1, 2], np.float32), "c": np.array(condition)}
    before = compute(model, feeds)
    name_everything(model)
    for was, now in zip(before, compute(model, feeds), strict=True):
        np.testing.assert_array_equal(was, now)


def test_a_name_of_the_interface_wins_over_a_clash_in_a_subgraph(build: Build) -> None:
    model = build("""
    g (float[2] x, bool c) => (float[2] y) {
      y = If (c) <
        then_branch = a () => (float[2] z) { z = Exp(x) },
        else_branch = b () => (float[2] z) { z = Neg(x) }
      >
    }""")
    branch = model.graph[0].attributes["then_branch"].as_graph()
    branch.outputs[0].name = "y"
    name_everything(model)
    assert model.graph.outputs[0].name == "y"
    assert branch.outputs[0].name == "y_1"


def test_omitted_inputs_and_outputs_stay_omitted(build: Build) -> None:
    model = build("""g (float[4,1,2] x, float[1,8,2] w, float[1,8,2] r) => (float[1,1,2] h) {
      , h = LSTM <hidden_size = 2> (x, w, r, , , )
    }""")
    name_everything(model)
    node = model.graph[0]
    assert node.outputs[0].name == ""
    assert list(node.inputs[3:]) == [None, None]
    assert node.name == "LSTM_h"


def test_unnamed_values_of_a_built_graph_get_names() -> None:
    x = ir.val("x", ir.DataType.FLOAT, [1])
    first = ir.node("Relu", [x], name="first")
    last = ir.node("Relu", [first.outputs[0]])
    graph = ir.Graph([x], [last.outputs[0]], nodes=[first, last], opset_imports={"": 17}, name="g")
    for node in graph:
        node.outputs[0].name = None
    last.name = None
    name_everything(ir.Model(graph, ir_version=8))
    assert [node.outputs[0].name for node in graph] == ["first_output_0", "Relu_output_0"]
    assert last.name == "Relu_Relu_output_0"


def test_renaming_in_a_clone_leaves_the_sources_tensors_alone(build: Build) -> None:
    model = build("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }")
    copy = model.clone()
    clash = ir.node("Relu", [copy.graph.inputs[0]], name="clash")
    clash.outputs[0].name = "w"
    copy.graph.insert_before(copy.graph[0], clash)
    name_everything(copy)
    assert sorted(value.name for value in values(copy.graph)) == ["w", "w_1", "x", "y"]
    assert model.graph.initializers["w"].const_value.name == "w"
