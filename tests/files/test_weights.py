"""Weights loaded into a model that is already there: all or nothing, and a table of the differences."""

import dataclasses

import h5py
import keras
import numpy as np
import pytest
from conftest import dense_net
from keras import layers

import distill
from distill.files._matching import matched
from distill.files._parts import Part, Weight

FORMS = ("w.weights.h5", "m.keras", "m.h5")


def save(model, path):
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


def equal(arrays, others):
    return all(np.array_equal(a, b) for a, b in zip(arrays, others, strict=True))


def same(one, other):
    return equal(one.get_weights(), other.get_weights())


def refused(model, path, **kwargs):
    """Expect an error and that nothing was loaded; returns the text of the error."""
    before = model.get_weights()
    with pytest.raises(ValueError, match="nothing was loaded") as caught:
        distill.load_weights(model, path, **kwargs)
    assert equal(before, model.get_weights())
    return str(caught.value)


def rows(text):
    """The rows of the table in an error or report."""
    lines = text.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("layer "))
    return [tuple(cell.strip() for cell in line.split("  ") if cell.strip()) for line in lines[begin + 1 :]]


def stack(width=4, activation="relu", name="stack", prefix=""):
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(width, name="deep"), layers.BatchNormalization(name="norm")],
        name="inner",
    )
    listed = [inner, layers.Dense(5, activation, name=f"{prefix}wide"), layers.Dense(3, name=f"{prefix}head")]
    return keras.Sequential([keras.Input((6,)), *listed], name=name)


@pytest.mark.parametrize("form", FORMS)
def test_weights_go_into_the_same_architecture(tmp_path, form):
    saved, model = stack(), stack(name="again")
    loaded = distill.load_weights(model, save(saved, tmp_path / form))
    assert same(saved, model)
    names = ("inner", "wide", "head") if form == "m.h5" else ("inner/deep", "inner/norm", "wide", "head")
    assert loaded.taken == names
    assert loaded.differences == ()
    assert str(loaded) == f"{len(names)} layers were loaded: {', '.join(names)}."
    assert str(dataclasses.replace(loaded, taken=names[:1])) == f"1 layer was loaded: {names[0]}."
    other = stack(prefix="other_")  # other names, given by Keras or the user
    distill.load_weights(other, tmp_path / form)
    assert same(saved, other)


@pytest.mark.parametrize("form", FORMS)
def test_another_width_is_refused_with_a_table(tmp_path, form):
    text = refused(stack(width=4), save(stack(width=7), tmp_path / form))
    deep, wide = ("inner/deep", "wide") if form != "m.h5" else ("inner", "wide")
    assert (deep, "kernel", "(6, 4)", "(6, 7)") in rows(text)
    assert (wide, "kernel", "(4, 5)", "(7, 5)") in rows(text)
    assert f"{tmp_path / form} for 'stack', where they differ" in text


@pytest.mark.parametrize("form", FORMS)
def test_layers_that_one_side_lacks_are_named(tmp_path, form):
    def net(*names):
        return keras.Sequential([keras.Input((6,)), *(layers.Dense(6, name=name) for name in names)])

    text = refused(net("a", "b", "c"), save(net("a", "d"), tmp_path / form))
    found = rows(text)
    if form == "w.weights.h5":  # it holds no architecture, so places are as good a guide as names
        assert ("c", "kernel", "(6, 6)", "missing") in found
    else:
        assert ("(the model)", "layers", "3", "2") in found
    text = refused(net("a"), save(net("a", "b"), tmp_path / form))
    assert ("b", "kernel", "–", "(6, 6), unexpected") in rows(text) or (
        "b",
        "0",
        "–",
        "(6, 6), unexpected",
    ) in rows(text)


def test_a_long_table_is_cut(tmp_path):
    deep = keras.Sequential([keras.Input((2,)), *(layers.Dense(2) for _ in range(9))])
    text = refused(
        keras.Sequential([keras.Input((2,)), layers.Dense(3)]), save(deep, tmp_path / "w.weights.h5")
    )
    assert "and 6 more" in text


@pytest.mark.parametrize("form", ["m.keras", "m.h5"])
def test_what_keras_takes_silently_is_seen_where_the_file_tells(tmp_path, form):
    text = refused(stack(activation="tanh"), save(stack(activation="relu"), tmp_path / form))
    assert rows(text)[0] == ("wide", "activation", "tanh", "relu")

    def net(layer, second="a"):
        inputs = keras.Input((4,))
        named = {"a": layers.Dense(4, name="a")(inputs)}
        named["b"] = layers.Dense(4, name="b")(named["a"])
        return keras.Model(inputs, layers.Dense(1, name="c")(layer(named[second])))

    text = refused(net(layers.ReLU(name="r")), save(net(layers.ELU(name="r")), tmp_path / form))
    assert rows(text) == [("r", "layer", "ReLU", "ELU"), ("partial=True loads the layers that agree.",)]
    text = refused(net(layers.ReLU(0.5, name="r")), save(net(layers.ReLU(name="r")), tmp_path / form))
    assert rows(text)[0] == ("r", "max_value", "0.5", "None")
    text = refused(net(layers.ReLU(name="r"), "b"), save(net(layers.ReLU(name="r")), tmp_path / form))
    assert ("r", "called on", "b", "a") in rows(text)


def test_what_changes_no_answer_is_no_difference(tmp_path):
    def net(rate, regularizer, axis):
        listed = [layers.Dense(3, "swish", kernel_regularizer=regularizer), layers.Dropout(rate)]
        return keras.Sequential([keras.Input((2,)), *listed, layers.BatchNormalization(axis=axis)])

    saved, model = net(0.5, None, -1), net(0.1, "l2", 1)
    distill.load_weights(model, save(saved, tmp_path / "m.keras"))
    assert same(saved, model)


def test_a_number_that_is_no_axis_differs_by_its_sign(tmp_path):
    def scaled(offset, axis=-1):
        stack = [
            layers.Rescaling(1 / 127.5, offset=offset),
            layers.Dense(2, name="d"),
            layers.Softmax(axis=axis),
        ]
        return keras.Sequential([keras.Input((4,)), *stack])

    save(scaled(-1), tmp_path / "m.keras")
    assert "offset" in refused(scaled(0), tmp_path / "m.keras")
    distill.load_weights(scaled(-1, axis=1), tmp_path / "m.keras")  # the same, counted from the front


@pytest.mark.parametrize("form", ["m.keras", "m.h5"])
def test_numbers_in_the_graph_and_outputs_of_layers_are_compared(tmp_path, form):
    def scaled(by):
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(2, name="d")(inputs / by - 1))

    def state(which):
        inputs = keras.Input((4, 3))
        states = layers.LSTM(5, return_state=True, name="l")(inputs)
        return keras.Model(inputs, layers.Dense(2, name="d")(states[which]))

    save(scaled(127.5), tmp_path / form)
    distill.load_weights(scaled(127.5), tmp_path / form)
    text = refused(scaled(255.0), tmp_path / form)
    assert "255.0" in text
    assert "127.5" in text
    save(state(1), tmp_path / form)
    distill.load_weights(state(1), tmp_path / form)
    assert ("d", "called on", "l[2]", "l[1]") in rows(refused(state(2), tmp_path / form))


def within(activation="relu"):
    """A model in a wrapper, both without a given name."""
    inputs = keras.Input((4,))
    inner = layers.Subtract()([layers.Dense(2)(inputs), layers.Dense(2, activation)(inputs)])
    series = keras.Input((3, 4))
    return keras.Model(series, layers.TimeDistributed(keras.Model(inputs, inner))(series))


def beside(first=0, ends=("x", "y")):
    """A model in a model with two inputs and two outputs."""
    inputs = [keras.Input((4,)), keras.Input((4,))]
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    made = {"x": inner(layers.Subtract()([inputs[first], inputs[1 - first]]))}
    made["y"] = layers.Dense(3)(made["x"])
    return keras.Model(inputs, [made[end] for end in ends])


def cells(width=3):
    return keras.Sequential([keras.Input((3, 4)), layers.RNN([layers.LSTMCell(2), layers.LSTMCell(width)])])


@pytest.mark.parametrize("form", ["m.keras", "m.h5"])
@pytest.mark.parametrize("make", [within, beside, cells])
def test_models_in_models_and_wrappers_are_one_architecture_whatever_they_are_called(tmp_path, form, make):
    source, target = make(), make()
    save(source, tmp_path / form)
    distill.load_weights(target, tmp_path / form)
    assert same(target, source)


@pytest.mark.parametrize("form", ["m.keras", "m.h5"])
def test_wiring_is_compared_to_the_ends_and_in_wrappers(tmp_path, form):
    save(within(), tmp_path / form)
    text = refused(within("tanh"), tmp_path / form)
    assert "layer/1/activation  tanh      relu" in text
    save(beside(), tmp_path / form)
    assert "(input 1), (input 0)  (input 0), (input 1)" in refused(beside(first=1), tmp_path / form)
    text = refused(beside(ends=("y", "x")), tmp_path / form)
    assert [row[:2] for row in rows(text)[:-1]] == [("(the model)", "outputs")]
    distill.load_weights(beside(ends=("y",)), tmp_path / form)  # one of its two outputs


def test_the_older_layout_is_not_guessed_where_parts_of_a_nested_model_are_frozen(tmp_path):
    """In that layout trainable weights come first, so weights of one shape would be swapped."""

    def transferred(frozen):
        blocks = [layers.Dense(4, name=f"block{i}") for i in range(4)]
        for block in blocks[:frozen]:
            block.trainable = False
        inner = keras.Sequential([keras.Input((4,)), *blocks], name="backbone")
        return keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="head")])

    half = transferred(2)
    for name in ("half.h5", "half.keras"):
        save(half, tmp_path / name)
    assert "trainable" in refused(transferred(0), tmp_path / "half.h5")
    for model, name in ((transferred(2), "half.h5"), (transferred(0), "half.keras")):
        distill.load_weights(model, tmp_path / name)
        x = np.ones((1, 4), "float32")
        np.testing.assert_array_equal(model(x), half(x))


def test_layers_in_another_order_are_paired_by_name(tmp_path):
    def net(*order):
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Subtract()([layers.Dense(4, name=name)(inputs) for name in order]))

    saved = net("a", "b")
    for form in ("w.weights.h5", "m.h5"):
        model = net("b", "a")
        path = save(saved, tmp_path / form)
        if form == "m.h5":  # it holds the wiring, in which the two are swapped
            assert "called on" in refused(model, path)
            continue
        distill.load_weights(model, path)
        x = np.ones((1, 4))
        np.testing.assert_array_equal(saved(x), -model(x))


@pytest.mark.parametrize("form", FORMS)
def test_numbers_that_keras_gives_to_layers_pair_nothing(tmp_path, form):
    """The head was made before the body: Keras numbers them the other way around."""

    def net(head_first):
        keras.backend.clear_session()
        made = [layers.Dense(4) if head_first else None, layers.Dense(4, "relu")]
        return keras.Sequential([keras.Input((4,)), made[1], made[0] or layers.Dense(4)])

    saved, x = net(False), np.random.default_rng(0).normal(size=(3, 4))
    path = save(saved, tmp_path / form)
    model = net(True)
    assert [layer.name for layer in model.layers] == [layer.name for layer in saved.layers][::-1]
    distill.load_weights(model, path)
    np.testing.assert_array_equal(model(x), saved(x))


def test_moved_layers_of_given_and_of_numbered_names_are_ambiguous(tmp_path):
    def net(*order):
        keras.backend.clear_session()
        inputs = keras.Input((4,))
        made = {name: layers.Dense(4, name=name) for name in ("dense", "a", "b")}
        return keras.Model(inputs, [made[name](inputs) for name in order])

    path = save(net("dense", "a", "b"), tmp_path / "w.weights.h5")
    assert "place" in refused(net("a", "dense", "b"), path)
    distill.load_weights(net("dense", "b", "a"), path)


def test_weights_alone_of_a_partly_frozen_model_in_the_model(tmp_path):
    """The older layout stores trainable weights first, so the same place belongs to another layer."""

    def net(frozen):
        part = keras.Sequential(
            [keras.Input((4,)), layers.Dense(4, name="one"), layers.Dense(4, name="two")], name="part"
        )
        part.layers[0].trainable = not frozen
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(2, name="head")(part(inputs)))

    saved = net(True)
    saved.save(tmp_path / "whole.h5")
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "old.h5", "w") as alone:
        for name in whole["model_weights"]:
            whole.copy(whole["model_weights"][name], alone)
        for key, value in whole["model_weights"].attrs.items():
            alone.attrs[key] = value
    model = net(False)
    text = refused(model, tmp_path / "old.h5")
    assert text.splitlines()[2].split() == ["part", "order", "of", "weights", "one,", "two", "two,", "one"]
    again = net(True)
    distill.load_weights(again, tmp_path / "old.h5")
    x = np.ones((1, 4))
    np.testing.assert_array_equal(again(x), saved(x))


def test_imaginary_parts_are_not_dropped(tmp_path, student):
    student.save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5", "a") as file:
        places = []
        file.visititems(lambda path, item: places.append(path) if isinstance(item, h5py.Dataset) else None)
        value = np.array(file[places[0]]).astype("complex64")
        del file[places[0]]
        file[places[0]] = value
    with pytest.raises(ValueError, match="Weights must be real numbers"):
        distill.load_weights(student, tmp_path / "w.weights.h5")


@pytest.mark.parametrize("form", FORMS)
def test_a_part_is_taken_where_it_is_asked_for(tmp_path, form):
    saved = stack()
    model = keras.Sequential(
        [keras.Input((6,)), *stack().layers[:2], layers.Dense(9, name="head"), layers.Dense(1, name="more")]
    )
    model.layers[1].activation = keras.activations.tanh
    path = save(saved, tmp_path / form)
    refused(model, path)
    head = model.get_layer("head").get_weights()
    loaded = distill.load_weights(model, path, partial=True)
    knows = form != "w.weights.h5"  # the file holds the activation of "wide"
    inner = ("inner",) if form == "m.h5" else ("inner/deep", "inner/norm")
    assert loaded.taken == (inner if knows else (*inner, "wide"))
    assert ("head", "kernel", "(5, 9)", "(5, 3)") in rows(str(loaded))
    assert ("more", "bias", "(1,)", "missing") in rows(str(loaded))
    assert (("wide", "activation", "tanh", "relu") in rows(str(loaded))) == knows
    np.testing.assert_array_equal(
        model.get_layer("inner").get_weights()[0], saved.get_layer("inner").get_weights()[0]
    )
    assert (
        np.array_equal(model.get_layer("wide").get_weights()[0], saved.get_layer("wide").get_weights()[0])
        != knows
    )
    assert equal(head, model.get_layer("head").get_weights())
    assert "No layer agrees" in refused(dense_net(2), path, partial=True)


def test_what_training_keeps_is_left_alone(tmp_path, batch):
    saved, model = dense_net(4), dense_net(4)
    for net, optimizer in ((saved, "adam"), (model, "sgd")):
        net.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        net.fit(*batch, verbose=0)
    distill.save_weights(saved, tmp_path / "w.weights.h5")
    distill.load_weights(model, tmp_path / "w.weights.h5")
    assert same(saved, model)
    assert int(model.optimizer.iterations) == 2
    distill.load_weights(dense_net(4), tmp_path / "w.weights.h5")


def test_statistics_of_the_data_are_put_to_use(tmp_path):
    def net():
        return keras.Sequential([keras.Input((3,)), layers.Normalization()])

    saved = net()
    saved.layers[0].adapt(np.random.default_rng(0).normal(2.0, 3.0, (50, 3)))
    for form in FORMS:
        model = net()
        distill.load_weights(model, save(saved, tmp_path / form))
        x = np.ones((2, 3))
        np.testing.assert_array_equal(saved(x), model(x))


def test_subclassed_models_load_too(tmp_path):
    class Net(keras.Model):
        def __init__(self, width):
            super().__init__()
            self.first, self.rest = layers.Dense(width), [layers.Dense(2), {"last": layers.Dense(1)}]

        def call(self, inputs):
            return self.rest[1]["last"](self.rest[0](self.first(inputs)))

    saved, model = Net(3), Net(3)
    with pytest.raises(ValueError, match="must be built before weights can be loaded"):
        distill.load_weights(model, tmp_path / "w.weights.h5")
    for net in (saved, model):
        net(np.ones((1, 2)))
    path = save(saved, tmp_path / "w.weights.h5")
    distill.load_weights(model, path)
    assert same(saved, model)
    wider = Net(4)
    wider(np.ones((1, 2)))
    refused(wider, path)


def test_a_distiller_keeps_and_takes_weights(tmp_path, teacher, student, batch):
    distiller = distill.Distiller(teacher, student, distill.SoftTargets(3.0))
    distiller.compile("adam", "sparse_categorical_crossentropy")
    distiller.fit(*batch, verbose=0)
    distill.save_weights(distiller, tmp_path / "d.weights.h5")
    loss = distill.SoftTargets(5.0)
    other = distill.Distiller(teacher, dense_net(4), loss)
    distill.load_weights(other, tmp_path / "d.weights.h5")
    assert same(other.student, student)
    assert loss.temperature == 3.0


def test_json_has_no_weights(tmp_path, student):
    (tmp_path / "m.json").write_text(student.to_json())
    with pytest.raises(ValueError, match="The file must hold weights"):
        distill.load_weights(student, tmp_path / "m.json")


def part(name, *owners):
    """A part of 4 × 4 weights, which belong to these layers."""
    weights = {
        str(i): Weight(str(i), (4, 4), lambda i=i: np.full((4, 4), i), owner)
        for i, owner in enumerate(owners)
    }
    return Part(name, weights)


def test_names_that_both_know_are_not_paired_crosswise():
    """By name, one of two heads agrees; by place both do, and it would get the weights of the other."""
    model = {"layers/0": part("classes", ""), "layers/1": part("scores", "")}
    file = {"layers/0": part("boxes", ""), "layers/1": part("classes", "")}
    _, differences = matched(model, file)
    assert [(one.layer, one.what) for one in differences] == [("classes", "place")]
    renamed = {"layers/0": part("boxes", ""), "layers/1": part("labels", "")}
    assert matched(model, renamed) == ({place: place for place in model}, [])
    # Names that Keras chose say nothing.
    numbered = {"layers/0": part("dense_1", ""), "layers/1": part("dense_2", "")}
    shifted = {"layers/0": part("dense", ""), "layers/1": part("dense_1", "")}
    assert matched(numbered, shifted) == ({place: place for place in model}, [])


@pytest.mark.parametrize(
    ("owners", "is_right"),
    [
        (("dense_2", "dense_3"), True),
        (("dense_9", "dense_10"), True),
        (("dense_3", "dense_2"), False),  # the first was frozen, and the older layout stores it last
        (("dense_10", "dense_9"), False),
    ],
)
def test_the_order_of_layers_that_keras_numbered_counts(owners, is_right):
    model = {"body": part("sequential", "dense", "dense_1")}
    _, differences = matched(model, {"body": part("sequential_1", *owners)})
    assert [one.what for one in differences] == ([] if is_right else ["order of weights"])


def towers(first, second, inner=None):
    """Two models of one shape, named by somebody, that are made in this order."""
    inputs = keras.Input((4,))
    made = {
        name: keras.Sequential([keras.Input((4,)), layers.Dense(4, name=inner)], name=name)
        for name in ("query", "doc")
    }
    return keras.Model(inputs, [made[first](inputs), made[second](inputs)])


@pytest.mark.parametrize("inner", [None, "inside"])
def test_models_inside_go_by_the_names_that_somebody_gave(inner, tmp_path):
    keras.backend.clear_session()
    saved = towers("query", "doc", inner)
    saved.save_weights(tmp_path / "w.weights.h5")
    keras.backend.clear_session()
    model = towers("doc", "query", inner)
    distill.load_weights(model, tmp_path / "w.weights.h5")
    for name in ("query", "doc"):
        for one, other in zip(
            model.get_layer(name).get_weights(), saved.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_models_inside_whose_layers_have_other_numbers_are_not_exchanged(tmp_path):
    """By name nothing agrees, and by place each would get the weights of the other."""
    keras.backend.clear_session()
    towers("query", "doc").save_weights(tmp_path / "w.weights.h5")
    model = towers("doc", "query")
    before = model.get_weights()
    with pytest.raises(ValueError, match="place"):
        distill.load_weights(model, tmp_path / "w.weights.h5")
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@keras.saving.register_keras_serializable("test_weights")
class Scale(layers.Layer):
    def build(self, shape):
        self.factors = self.add_weight(shape=(shape[-1],), initializer="normal", name="factors")

    def call(self, x):
        return x * self.factors


@keras.saving.register_keras_serializable("test_weights")
class Repeated(layers.Layer):
    """Three layers of one name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(4, name="part") for _ in range(3)]

    def build(self, shape):
        for part in self.parts:
            part.build(shape)

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def scaled():
    return keras.Sequential([keras.Input((4,)), Scale(), Scale()])


def repeated(classes=2):
    return keras.Sequential(
        [keras.Input((4,)), Repeated(name="block"), layers.Dense(classes, name="head")], name="repeated"
    )


def unnamed():
    inputs = keras.Input((4,))
    inner = [keras.Sequential([keras.Input((4,)), layers.Dense(4, name="hidden")]) for _ in range(2)]
    return keras.Model(inputs, inner[1](inner[0](inputs)))


@pytest.mark.parametrize("build", [scaled, unnamed, repeated])
def test_numbers_that_the_process_gave_refuse_nothing(build, tmp_path):
    keras.backend.clear_session()
    saved = build()
    saved.save_weights(tmp_path / "w.weights.h5")
    saved.save(tmp_path / "m.keras")
    keras.backend.clear_session()
    Scale(), keras.Sequential([keras.Input((1,)), layers.Dense(1)])  # so that numbers are shifted by one
    model = build()
    distill.load_weights(model, tmp_path / "w.weights.h5")
    loaded = distill.load_model(tmp_path / "m.keras", custom_objects={"Scale": Scale, "Repeated": Repeated})
    for found in (model, loaded):
        for one, other in zip(found.get_weights(), saved.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_layers_of_one_name_are_not_taken_for_one_another(tmp_path):
    saved, model = repeated(2), repeated(3)
    saved.save_weights(tmp_path / "w.weights.h5")
    before = model.get_weights()
    with pytest.raises(ValueError, match="No layer agrees"):
        distill.load_weights(model, tmp_path / "w.weights.h5", partial=True)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_part_is_not_paired_by_numbers_that_keras_gave_where_places_differ(tmp_path):
    def stack(classes):
        return keras.Sequential(
            [keras.Input((4,)), *(layers.Dense(4) for _ in range(3)), layers.Dense(classes)]
        )

    keras.backend.clear_session()
    saved = stack(2)
    saved.save_weights(tmp_path / "w.weights.h5")
    keras.backend.clear_session()
    same = stack(3)
    assert len(distill.load_weights(same, tmp_path / "w.weights.h5", partial=True).taken) == 3
    for one, other in zip(same.layers[:3], saved.layers[:3], strict=True):
        np.testing.assert_array_equal(one.kernel, other.kernel)
    keras.backend.clear_session()
    layers.Dense(1)
    with pytest.raises(ValueError, match="No layer agrees"):
        distill.load_weights(stack(3), tmp_path / "w.weights.h5", partial=True)


def test_a_part_in_a_layer_with_other_settings_is_left_as_it_is(tmp_path):
    def net(activation, classes):
        recurrent = layers.LSTM(4, activation=activation, name="rnn")
        return keras.Sequential([keras.Input((5, 4)), recurrent, layers.Dense(classes, name="head")])

    net("relu", 2).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="activation"):
        distill.load_weights(net("tanh", 3), tmp_path / "m.keras", partial=True)


def test_a_file_that_fits_two_models_inside_is_refused(tmp_path):
    def tower(name):
        return keras.Sequential([keras.Input((4,)), layers.Dense(4, name="hidden")], name=name)

    tower("doc").save_weights(tmp_path / "w.weights.h5")
    inputs = keras.Input((4,))
    both = layers.Concatenate()([tower("query")(inputs), tower("doc")(inputs)])
    model = keras.Model(inputs, layers.Dense(1, name="head")(both))
    with pytest.raises(
        ValueError, match=r"nothing was loaded. .* of which it fits query, doc. Load it into one"
    ):
        distill.load_weights(model, tmp_path / "w.weights.h5", partial=True)


def test_settings_that_act_only_in_training_may_differ(tmp_path):
    def net(rate):
        recurrent = layers.LSTM(4, dropout=rate, recurrent_dropout=rate, name="rnn")
        noise, head = layers.GaussianNoise(rate, name="noise"), layers.Dense(2, name="head")
        return keras.Sequential([keras.Input((5, 4)), recurrent, noise, head])

    saved, model = net(0.2), net(0.0)
    saved.save(tmp_path / "m.keras")
    distill.load_weights(model, tmp_path / "m.keras")
    for one, other in zip(model.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_in_several_files_are_refused(tmp_path, student):
    student.save_weights(tmp_path / "w.weights.json", max_shard_size=1)
    with pytest.raises(ValueError, match="Weights must be in one file.* without max_shard_size"):
        distill.load_weights(student, tmp_path / "w.weights.json")


def test_cells_of_one_name_here_and_numbered_in_an_older_file_are_in_order():
    """Keras 2 once numbered the cells of recurrent layers; Keras 3 calls all of them lstm_cell."""
    model = {"both": part("both", *["lstm_cell"] * 6)}
    file = {"both": part("both", *["lstm_cell_1"] * 3, *["lstm_cell_2"] * 3)}
    assert matched(model, file) == ({"both": "both"}, [])
