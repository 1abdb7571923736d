import keras
import numpy as np
import pytest
from keras import layers

from distill._graphs import functional_of, needed_nodes, nested_calls, node_of, nodes_of, run


@pytest.fixture
def model():
    """A nested model that is called twice, and a layer of it that is called once more outside."""
    shared = layers.Dense(4, name="shared")
    x = keras.Input((4,))
    tower = keras.Model(x, layers.ReLU(name="relu")(shared(x)), name="tower")
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    joined = layers.Concatenate(name="joined")([tower(one), tower(other), shared(one)])
    last = layers.Dense(2, name="last")(joined)
    return keras.Model({"one": one, "other": other}, {"joined": joined, "last": last})


def example(size=3):
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(size, 4)).astype("float32") for name in ("one", "other")}


def inputs_of(graph, x):
    return [x[tensor.name] for tensor in graph.inputs]


def compute(step):
    args, kwargs = step.arguments()
    return step.operation(*args, **kwargs)


@pytest.mark.parametrize("enters", [False, True])
def test_a_run_computes_what_the_model_does_whether_nested_models_are_entered_or_called(model, enters):
    paths = []

    def visit(step):
        paths.append(step.path)
        return step.enter(visit) if enters and step.nested is not None else compute(step)

    graph, x = functional_of(model), example()
    found = run(graph, inputs_of(graph, x), visit).of(model.output)
    expected = model(x)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    tower = ["tower", "tower/shared", "tower/relu"] if enters else ["tower"]
    assert sorted(paths) == sorted([*tower, *tower, "shared", "joined", "last"])
    assert paths[-2:] == ["joined", "last"]


def test_a_nested_model_can_be_entered_with_other_inputs(model):
    def visit(step):
        zeros = [keras.ops.zeros_like(one) for one in step.inputs()]
        return compute(step) if step.nested is None else step.enter(compute, zeros)

    graph = functional_of(model)
    values = run(graph, inputs_of(graph, example()), visit)
    expected = model.get_layer("tower")(np.zeros((3, 4), "float32"))
    for node in nodes_of(graph):
        if node.operation.name == "tower":
            np.testing.assert_array_equal(values[node.outputs[0]], expected)


def test_inputs_of_a_nested_model_come_in_its_own_order():
    one, other = keras.Input((1,), name="one"), keras.Input((1,), name="other")
    difference = keras.Model([one, other], layers.Subtract(name="difference")([one, other]), name="inner")
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    by_name = keras.Model([a, b], difference({"other": a, "one": b}))
    seen = []

    def visit(step):
        seen.append((step.path, step.inputs()))
        return step.enter(visit) if step.nested is not None else "difference"

    graph = functional_of(by_name)
    assert run(graph, ["a", "b"], visit).of(by_name.output) == "difference"
    assert seen == [("inner", ["b", "a"]), ("inner/difference", ["b", "a"])]


def test_a_value_may_be_anything_and_each_output_of_a_call_has_its_own():
    x = keras.Input((5, 4))
    sequence, state = layers.GRU(3, return_sequences=True, return_state=True, name="gru")(x)
    model = keras.Model(x, [state, sequence])
    values = run(functional_of(model), ["x"], lambda step: [f"{step.path} of {step.inputs()[0]}", "state"])
    assert values.of(model.outputs) == ["state", "gru of x"]
    with pytest.raises(ValueError, match="shorter"):
        run(functional_of(model), ["x"], lambda step: ["one too few"])


def test_calls_of_nested_models_are_listed_once_for_each_call(model):
    graph = functional_of(model)
    inner = functional_of(model.get_layer("tower"))
    tower = [("tower", graph), ("tower/shared", inner), ("tower/relu", inner)]
    rest = [("shared", graph), ("joined", graph), ("last", graph)]
    found = [(path, within) for path, _, within in nested_calls(graph)]
    assert found.count(("tower/relu", inner)) == 2
    assert sorted(found, key=str) == sorted([*tower, *tower, *rest], key=str)
    closed = [path for path, _, _ in nested_calls(graph, "model", enter=lambda node: False)]
    assert sorted(closed) == ["model/joined", "model/last", "model/shared", "model/tower", "model/tower"]


def test_what_only_a_skipped_call_needs_is_not_needed():
    x = keras.Input((4,))
    kept = layers.Dense(4, name="kept")(x)
    branch = layers.Dense(4, name="second")(layers.Dense(4, name="first")(kept))
    added = layers.Add(name="added")([kept, branch])
    end = layers.ReLU(name="end")(added)
    graph = functional_of(keras.Model(x, end))
    assert [node.operation.name for node in nodes_of(graph)] == ["kept", "first", "second", "added", "end"]
    skipped = {id(node_of(added)): kept}
    assert [node.operation.name for node in needed_nodes(graph, skipped)] == ["kept", "added", "end"]
    skipped[id(node_of(end))] = added  # one skipped call passes on what another does
    assert [node.operation.name for node in needed_nodes(graph, skipped)] == ["kept", "added", "end"]
    skipped[id(node_of(kept))] = x
    assert [node.operation.name for node in needed_nodes(graph, skipped)] == ["kept", "added", "end"]


def test_the_call_that_made_a_tensor_is_the_one_of_several(model):
    graph = functional_of(model)
    towers = [node for node in nodes_of(graph) if node.operation.name == "tower"]
    assert [node_of(node.outputs[0]) for node in towers] == towers
    assert node_of(graph.inputs[0]).is_input


def test_only_models_whose_call_is_kerass_own_have_a_graph(model):
    class Own(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return inputs

    built = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    assert functional_of(built) is not None
    assert functional_of(model) is model
    assert functional_of(keras.Sequential([layers.Dense(2)])) is None
    assert functional_of(Own([keras.Input((2,)), layers.Dense(2)])) is None
    assert functional_of(layers.Dense(2)) is None
