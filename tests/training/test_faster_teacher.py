"""Forms of a teacher: what is folded, that answers are the original's, and what is chosen. No test depends on times."""

import keras
import numpy as np
import pytest
from conftest import FEATURES, dense_net
from keras import layers

import distill
from distill import training
from distill._folding import LINEAR, find_foldable
from distill._graphs import functional_of
from distill._rewriting import in_dtype, rewrite
from distill.training import _faster_teacher as forms


def normalization(**kwargs):
    """With statistics of its own, as after training."""
    return layers.BatchNormalization(
        beta_initializer=keras.initializers.RandomNormal(stddev=0.5),
        gamma_initializer=keras.initializers.RandomUniform(0.5, 2.0),
        moving_mean_initializer=keras.initializers.RandomNormal(stddev=0.5),
        moving_variance_initializer=keras.initializers.RandomUniform(0.2, 3.0),
        **kwargs,
    )


def conv_net():
    """Two blocks, the second with a branch that reads its convolution beside the normalization."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv1")(inputs)
    x = layers.ReLU(name="relu1")(normalization(name="norm1")(x))
    y = layers.Conv2D(8, 3, padding="same", name="conv2")(x)
    x = layers.Add(name="sum")([normalization(name="norm2")(y), y])
    x = layers.GlobalAveragePooling2D(name="pool")(normalization(name="norm3")(x))
    return keras.Model(inputs, layers.Dense(5, "softmax", name="head")(x), name="net")


def nested_net():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    body = keras.Model(inputs, layers.ReLU()(normalization(name="norm")(x)), name="body")
    outer = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(body(outer))
    x = layers.Flatten()(normalization(name="norm")(x))
    top = keras.Sequential([keras.Input((64,)), layers.Dense(5), layers.Softmax()], name="top")
    return keras.Model(outer, top(x), name="nested")


def images(count=6):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


def in_float64(model):
    """The same network in double precision, unfolded."""

    def copied(layer, name):
        return type(layer).from_config(in_dtype({**layer.get_config(), "name": name}, "float64"))

    return rewrite(model, copied, merge=False)


def values(model, x, *names):
    """Outputs of layers in inference, in float64, read as a loss reads them."""
    taps = training._teacher.Teacher(model, reads=[training._taps.Read(layer=name) for name in names])
    return [np.asarray(keras.ops.convert_to_numpy(value), "float64") for value in taps(x).values]


def form(model, name="folded", kept=()):
    return forms._form(model, name, find_foldable(functional_of(model), kept=kept)[0])


SHAPES = {1: (9, 4), 2: (7, 6, 4), 3: (5, 4, 6, 4)}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", LINEAR)
def test_each_kind_of_layer_takes_in_its_normalization(kind, use_bias):
    rank = 2 if kind is layers.Dense else next(n for n in (1, 2, 3) if f"{n}D" in kind.__name__)
    if kind is layers.Dense:
        layer = kind(5, use_bias=use_bias)
    elif "Depthwise" in kind.__name__:
        layer = kind(3, depth_multiplier=2, use_bias=use_bias)
    else:
        layer = kind(6, 3, use_bias=use_bias)
    inputs = keras.Input(SHAPES[rank])
    outputs = normalization(name="norm", scale=rank != 3, center=rank != 1)(layer(inputs))
    model = keras.Model(inputs, outputs)
    if use_bias:
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    x = np.random.default_rng(0).normal(size=(3, *SHAPES[rank]))
    folded = form(model)
    assert [type(one) for one in folded.layers[1:]] == [kind]
    expected = np.asarray(in_float64(model)(x))
    np.testing.assert_allclose(np.asarray(folded(x.astype("float32"))), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (conv_net, ["norm1", "relu1", "conv2", "norm2", "sum", "pool", "head"]),
        (nested_net, ["body/norm", "norm"]),
    ],
)
def test_every_layer_that_can_be_read_is_what_it_was(make, names):
    model = make()
    expected = values(in_float64(model), images().astype("float64"), *names)
    for one, other in zip(values(form(model), images(), *names), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("make", "gone"), [(conv_net, "conv1"), (nested_net, "body/conv")])
def test_a_layer_that_took_in_its_normalization_cannot_be_read(make, gone):
    with pytest.raises(ValueError, match=r"folded.* has no layer of that name. Received: 'conv"):
        values(form(make()), images(), gone)
    kept = form(make(), kept=[gone])
    assert values(kept, images(), gone)


def test_the_original_is_not_changed():
    model = conv_net()
    before = (
        model(images()),
        [w.copy() for w in model.get_weights()],
        [len(o._inbound_nodes) for o in model.operations],
    )
    found = training.faster_teacher(model, images(), runs=1)
    np.testing.assert_array_equal(model(images()), before[0])
    for one, other in zip(model.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert [len(operation._inbound_nodes) for operation in model.operations] == before[2]
    own = {id(variable) for variable in model.variables}
    assert found.teacher is model or not own & {id(variable) for variable in found.teacher.variables}


def test_what_is_not_folded_is_said():
    shared, norm = layers.Dense(4, name="shared"), normalization(name="twice")
    inputs = keras.Input((FEATURES,))
    x = normalization(name="after_shared")(
        shared(layers.Dense(FEATURES)(shared(inputs)[:, :1])[:, :FEATURES])
    )
    x = normalization(name="after_relu")(layers.Dense(4, "relu", name="relu")(x))
    x = norm(layers.Dense(4)(x)) + norm(layers.Dense(4)(x))
    x = normalization(name="after_sum")(x)
    y = layers.Dense(4, name="read")(x)
    x = normalization(name="after_read")(y)
    z = normalization(name="along_time", axis=1)(layers.Dense(4, name="time")(layers.Reshape((2, 2))(x)))
    w = normalization(name="good")(layers.Dense(4, name="fine")(x))
    found, staying = find_foldable(keras.Model(inputs, [y, z, w]))
    assert [one.name for one in found.values()] == ["good"]
    assert staying["after_relu"] == "follows the activation of 'relu'"
    assert staying["after_read"] == "'read' is read by others too"
    assert staying["along_time"] == "is over another axis than the channels of 'time'"
    assert "several times" in staying["after_shared"]
    assert "several times" in staying["twice"]
    assert staying["after_sum"].startswith("follows 'add")
    assert set(staying) == {"after_relu", "after_read", "along_time", "after_shared", "twice", "after_sum"}


def test_a_model_that_is_called_twice_is_folded_inside():
    model = nested_net()
    body = model.get_layer("body")
    inputs = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    twice = keras.Model(inputs, layers.Add()([body(one) for one in inputs]))
    folded = form(twice)
    x = [images(), -images()]
    np.testing.assert_allclose(np.asarray(folded(x)), np.asarray(twice(x)), rtol=1e-4, atol=1e-5)
    assert len(folded.get_layer("body").layers) == len(body.layers) - 1


@pytest.mark.parametrize(("make", "head"), [(conv_net, ["head"]), (nested_net, ["dense"])])
def test_all_but_the_head_computes_in_bfloat16(make, head):
    model = make()
    half = form(model, "folded, bfloat16")
    kept = [one.name for one in half._flatten_layers() if one.weights and one.variable_dtype == "float32"]
    assert [one.split("_")[0] for one in kept if one not in (half.name, "body", "top")] == head
    assert half.output.dtype == "float32"
    assert all(
        one.compute_dtype == "float32" for one in half._flatten_layers() if isinstance(one, layers.Softmax)
    )


@pytest.fixture
def times(monkeypatch):
    """Makes forms take these milliseconds."""

    def make(**milliseconds):
        given = {name.replace("_", " "): ms for name, ms in milliseconds.items()}
        given["folded, bfloat16"] = given.pop("both", 1.0)
        monkeypatch.setattr(forms, "_times", lambda made, x, runs: {name: given[name] for name in made})

    return make


def test_the_fastest_within_the_tolerance_is_taken(times):
    times(as_it_is=4.0, folded=2.0, both=1.0)
    model = conv_net()
    found = training.faster_teacher(model, images())
    assert [row.name for row in found.rows] == ["as it is", "folded", "folded, bfloat16"]
    assert (found.chosen, found.teacher.name) == (found.rows[2], "net_folded_bfloat16")
    assert found.rows[0].difference == 0.0
    assert found.rows[1].difference < 1e-5 < found.rows[2].difference < 0.03
    exact = training.faster_teacher(model, images(), tolerance=1e-4)
    assert (exact.chosen, exact.teacher.name) == (exact.rows[1], "net_folded")
    assert f"{exact.rows[2].difference:.2g}, more than 0.0001" in str(exact)


def test_what_is_not_surely_faster_changes_nothing(times):
    times(as_it_is=2.0, folded=1.98, both=1.96)
    model = conv_net()
    assert training.faster_teacher(model, images()).teacher is model


def test_without_normalizations_there_is_bfloat16(times):
    times(as_it_is=2.0, bfloat16=1.0)
    found = training.faster_teacher(dense_net(16), images()[:, 0, :2, 0].repeat(3, axis=1))
    assert [row.name for row in found.rows] == ["as it is", "bfloat16"]
    assert found.staying == {}


def test_layers_that_losses_read_are_compared_and_stay(times):
    times(as_it_is=2.0, folded=1.0, both=0.5, bfloat16=0.5)
    model = conv_net()
    found = training.faster_teacher(model, images(), layers=["conv1", "relu1"], tolerance=1e-4)
    assert found.staying["norm1"] == "'conv1' is read"
    assert [row.name for row in found.rows] == ["as it is", "bfloat16"]
    alone = training.faster_teacher(model, images(), tolerance=1e-4).rows[0]
    assert found.rows[1].difference > 1e-4 > alone.difference


def test_the_largest_difference_of_an_example_counts():
    right = np.array([[3.0, 4.0], [0.0, 0.0]])
    apart = np.array([[3.0, 4.0], [0.3, 0.4]])
    # The example is 0.354 off; answers are of size 2.5.
    assert forms._difference([right], [apart]) == pytest.approx(0.5 / 2**0.5 / 2.5)
    assert forms._difference([right, right], [right, apart]) == pytest.approx(0.5 / 2**0.5 / 2.5)
    assert forms._difference([right], [right]) == 0.0
    assert forms._difference([np.zeros((2, 2))], [np.ones((2, 2))]) == np.inf


class Stubborn(layers.Layer):
    """Cannot be made again."""

    def __init__(self, secret):
        super().__init__(name="stubborn")

    def call(self, inputs):
        return inputs


class Written(keras.Model):
    """Its graph cannot be read."""

    def __init__(self):
        super().__init__(name="written")
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_form_that_cannot_be_made_is_a_row():
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, layers.Dense(3)(normalization()(layers.Dense(4)(Stubborn(1)(inputs)))))
    found = training.faster_teacher(model, np.ones((4, FEATURES), "float32"), runs=1)
    assert found.teacher is model
    assert [row.batch_ms for row in found.rows[1:]] == [None, None]
    assert all(row.failed for row in found.rows[1:])
    assert f"failed: {found.rows[1].failed}" in str(found)


def test_a_model_without_a_graph_stays_as_it_is():
    model = Written()
    model(np.ones((1, FEATURES), "float32"))
    found = training.faster_teacher(model, np.ones((4, FEATURES), "float32"), runs=1)
    assert found.teacher is model
    assert len(found.rows) == 1


def test_a_distiller_learns_the_same_from_it(batch):
    x, y = batch
    teacher, student = dense_net(16, batch_norm=True), dense_net(4)
    folded = form(teacher)
    start = student.get_weights()
    logs = []
    for one in (teacher, folded):
        student.set_weights(start)
        distiller = distill.Distiller(one, student, distill.SoftTargets(4.0))
        distiller.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        logs.append(distiller.fit(x, y, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(logs[0], logs[1], rtol=1e-5)


def test_the_table_names_what_was_tried():
    rows = (
        forms.TeacherForm("as it is", 4.0, 0.0),
        forms.TeacherForm("folded", 2.0, 3.21e-7),
        forms.TeacherForm("folded, bfloat16", None, np.inf, "no kernel"),
    )
    found = forms.FasterTeacher(None, rows, rows[1], 0.05, {"norm2": "'conv2' is read by others too"})
    assert str(found).splitlines() == [
        "teacher           ms per batch  speed  differs by",
        "as it is                  4.00   1.00  0",
        "folded                    2.00   2.00  3.2e-07",
        "folded, bfloat16             –      –  failed: no kernel",
        "chosen: folded",
        "norm2 is not folded: 'conv2' is read by others too",
    ]


@pytest.mark.parametrize(
    "changes", [{"tolerance": -1}, {"tolerance": float("nan")}, {"runs": 0}, {"runs": 1.5}]
)
def test_impossible_arguments_are_refused(changes):
    with pytest.raises(ValueError, match=rf"Received: .*{next(iter(changes))}="):
        training.faster_teacher(conv_net(), images(), **changes)


def test_a_preprocessor_is_refused(monkeypatch):
    monkeypatch.setattr(forms, "preprocessing_of", lambda model, role: object())
    with pytest.raises(ValueError, match="'net', which has a preprocessor"):
        training.faster_teacher(conv_net(), images())


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no layer of that name"):
        training.faster_teacher(conv_net(), images(), layers=["nothing"])


def test_an_adapted_normalization_is_copied_with_what_it_learned():
    scale = layers.Normalization()
    scale.adapt(100 + 10 * images(64))
    inputs = keras.Input((8, 8, 3))
    x = normalization(name="norm")(layers.Conv2D(4, 3, name="conv")(scale(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    copy = rewrite(model, lambda layer, name: type(layer).from_config({**layer.get_config(), "name": name}))
    x = 100 + 10 * images()
    np.testing.assert_allclose(copy.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-4)
    found = training.faster_teacher(model, x, runs=2)
    assert max(row.difference for row in found.rows if row.difference is not None) < 0.05
