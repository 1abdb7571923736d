"""Features by name: each model of a Distiller gets those that it takes, whatever else a batch holds."""

import keras
import numpy as np
import pytest
from distilling import LOGIT_CE, array, soft
from keras import layers, ops

import distill
from distill import training

RNG = np.random.default_rng(5)
SIZES = {"audio": 6, "text": 4, "video": 6}
X = {
    name: (1 + i) * RNG.normal(size=(8, size)).astype("float32")
    for i, (name, size) in enumerate(SIZES.items())
}
Y = np.arange(8) % 3


def net(inputs, parts=None, seed=0, name=None):
    """Log-probabilities of three classes from inputs in any structure."""
    parts = keras.tree.flatten(inputs) if parts is None else parts
    whole = parts[0] if len(parts) == 1 else layers.Concatenate()(parts)
    kernel = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    return keras.Model(
        inputs, layers.Activation("log_softmax")(layers.Dense(3, kernel_initializer=kernel)(whole)), name=name
    )


def named(*names):
    return {name: keras.Input((SIZES[name],), name=name) for name in names}


def answers(model, *features):
    """The oracle: the only Dense layer's kernel times the features, which the test picks by hand."""
    dense = next(layer for layer in model.layers if isinstance(layer, layers.Dense))
    logits = np.concatenate([part.astype("float64") for part in features], axis=-1) @ array(
        dense.kernel
    ) + array(dense.bias)
    return np.exp(logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True)))


def distilled(teacher, student, x=None, **kwargs):
    """The distillation loss of one step that changes nothing."""
    distiller = training.Distiller(
        teacher, student, distill.SoftTargets(4.0), student_loss_weight=0.0, **kwargs
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    return distiller.fit(X if x is None else x, batch_size=8, verbose=0).history["soft_targets"][0]


def expected(taught, learned):
    return np.mean(soft(taught, learned))


def student_of(*names):
    inputs = named(*names)
    return net(inputs, [inputs[name] for name in names], seed=9, name="student")


TAKERS = {
    "a dictionary": lambda: net(named("video")),
    "its own name": lambda: net(keras.Input((6,), name="video")),
    "a list": lambda: net([keras.Input((6,), name="video")]),
    "sequential": lambda: keras.Sequential(
        [keras.Input((6,), name="video"), layers.Dense(3), layers.Activation("log_softmax")]
    ),
    "a key that is not the input's name": lambda: net({"video": keras.Input((6,), name="audio")}),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")
@pytest.mark.sweep(2)
def test_a_teacher_gets_its_own_feature(taker):
    teacher, student = TAKERS[taker](), student_of("audio", "video")
    loss = distilled(teacher, student)
    assert np.isclose(
        loss, expected(answers(teacher, X["video"]), answers(student, X["audio"], X["video"])), rtol=1e-4
    )
    other = expected(answers(teacher, X["audio"]), answers(student, X["audio"], X["video"]))
    assert not np.isclose(loss, other, rtol=1e-2)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict:UserWarning")
@pytest.mark.sweep(2)
def test_a_student_gets_its_own_feature_in_training_evaluation_and_prediction(taker):
    student, teacher = TAKERS[taker](), net(named("text", "video"), seed=3)
    loss = distilled(teacher, student)
    learned = answers(student, X["video"])
    assert np.isclose(loss, expected(answers(teacher, X["text"], X["video"]), learned), rtol=1e-4)
    distiller = training.Distiller(teacher, student, distill.SoftTargets(4.0))
    distiller.compile("sgd", LOGIT_CE)
    np.testing.assert_allclose(np.exp(distiller.predict(X, verbose=0)), learned, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.exp(array(distiller(X))), learned, rtol=1e-4, atol=1e-6)
    cross_entropy = -np.mean(np.log(learned[np.arange(8), Y]))
    assert np.isclose(distiller.evaluate(X, Y, verbose=0), cross_entropy, rtol=1e-4)
    history = distiller.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert np.isclose(history["student_loss"][0], cross_entropy, rtol=1e-4)


def test_a_saved_model_gets_its_own_feature(tmp_path):
    inputs = named("text", "video")
    model, student = net(inputs), student_of("audio")
    model.export(tmp_path / "saved", verbose=False)
    teacher = layers.TFSMLayer(tmp_path / "saved", call_endpoint="serve")
    loss = distilled(teacher, student, from_logits=(True, None))
    wanted = expected(answers(model, X["text"], X["video"]), answers(student, X["audio"]))
    assert np.isclose(loss, wanted, rtol=1e-4)
    with pytest.raises(
        ValueError, match=r"takes \['text', 'video'\], and a batch of \['audio'\]: '(text|video)' is missing"
    ):
        distilled(teacher, student, {"audio": X["audio"]}, from_logits=(True, None))


def test_features_of_other_sizes_and_orders():
    teacher = net([keras.Input((6,), name="video"), keras.Input((4,), name="text")])
    student = student_of("audio")
    loss = distilled(teacher, student)
    assert np.isclose(
        loss, expected(answers(teacher, X["video"], X["text"]), answers(student, X["audio"])), rtol=1e-4
    )


def test_features_in_a_tree():
    def leaf(name):
        return keras.Input((6,), name=name)

    x = {
        "left": {"audio": X["audio"], "spare": X["text"], "video": X["video"]},
        "right": X["audio"][:, ::-1].copy(),
    }
    video, right = leaf("video"), leaf("right")
    teacher = net({"left": {"video": video}, "right": right}, [video, right])
    student = net({"left": {"video": leaf("video")}}, seed=9)
    loss = distilled(teacher, student, x)
    taught, learned = answers(teacher, X["video"], x["right"]), answers(student, X["video"])
    assert np.isclose(loss, expected(taught, learned), rtol=1e-4)


def test_each_of_several_teachers_and_what_preprocessing_returns():
    one, other, student = net(named("video")), net(named("text"), seed=2), student_of("audio")
    kwargs = {"teacher_preprocessing": [None, lambda x: {**x, "text": 2 * x["text"]}]}
    loss = distilled([one, other], student, **kwargs)
    learned = answers(student, X["audio"])
    parts = [expected(answers(one, X["video"]), learned), expected(answers(other, 2 * X["text"]), learned)]
    assert np.isclose(loss, np.mean(parts), rtol=1e-4)


def test_ids_beside_features():
    loss = distill.losses.ContrastiveRepresentation(Y, "hidden", "hidden", negatives=4)

    def made(*names):
        inputs = named(*names)
        hidden = layers.Dense(4, name="hidden")(layers.Concatenate()(list(inputs.values()) * 2))
        return keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))

    teacher, student = made("video"), made("text")
    distiller = training.Distiller(teacher, student, loss)
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(distiller.fit(training.Identified(X, np.arange(8)), Y, verbose=0).history["loss"][0])


def test_an_input_that_may_be_absent():
    present = keras.Input((6,), name="video")
    absent = keras.Input((4,), name="words", optional=True)

    class First(layers.Layer):
        def call(self, x, y):
            return x if y is None else ops.zeros_like(x)

    inputs = {"video": present, "words": absent}
    teacher, student = net(inputs, [First()(present, absent)]), student_of("audio")
    assert np.isclose(
        distilled(teacher, student),
        expected(answers(teacher, X["video"]), answers(student, X["audio"])),
        rtol=1e-4,
    )


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_feature_that_is_missing_is_an_error_that_lists_both(side):
    lacking = net({"speech": keras.Input((6,), name="speech"), **named("video")}, name="lacking")
    models = (lacking, student_of("audio")) if side == "teacher" else (student_of("audio"), lacking)
    with pytest.raises(
        ValueError,
        match=r"'lacking', which takes \['speech', 'video'\].*\['audio', 'text', 'video'\]: 'speech'",
    ):
        distilled(*models)


def test_an_input_without_a_name_takes_no_feature_by_guess():
    student = net(keras.Input((6,)), name="unnamed")
    with pytest.raises(ValueError, match="'unnamed', which takes .*'audio'"):
        distilled(net(named("video")), student)
    nested = net({"left": {"video": keras.Input((6,), name="video")}}, name="nested")
    with pytest.raises(ValueError, match=r"'nested', which takes \['left/video'\].*'left' is missing"):
        distilled(nested, student_of("audio"), {"left": X["video"], "audio": X["audio"]})


def test_lists_have_no_names():
    pair = [keras.Input((6,), name=name) for name in ("audio", "video")]
    turned = [keras.Input((6,), name=name) for name in ("video", "audio")]
    batch = [X["audio"], X["video"]]
    teacher, student = net(turned, name="turned"), net(pair, seed=9)
    with pytest.raises(ValueError, match=r"'turned' with \['video', 'audio'\].*\['audio', 'video'\]"):
        distilled(teacher, student, batch)
    assert np.isfinite(distilled(teacher, student))
    same = net([keras.Input((6,), name=name) for name in ("audio", "video")])
    loss = distilled(same, student, batch)
    assert np.isclose(loss, expected(answers(same, *batch), answers(student, *batch)), rtol=1e-4)


def test_shapes_are_compared_by_feature_before_any_work():
    wide = net({"video": keras.Input((7,), name="video")}, name="wide")
    with pytest.raises(ValueError, match=r"'wide' with inputs 'video' of shape \(None, 7\)"):
        training.Distiller(wide, student_of("audio", "video"), distill.SoftTargets(4.0))
    # Two names are two features, whose shapes may differ.
    text, video = net(keras.Input((4,), name="text")), net(keras.Input((6,), name="video"))
    loss = distilled(text, video)
    assert np.isclose(loss, expected(answers(text, X["text"]), answers(video, X["video"])), rtol=1e-4)


def test_a_model_that_picks_its_features_itself_gets_all():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return ops.log_softmax(self.dense(x["text"]))

    teacher = Own()
    teacher(X)
    student = student_of("audio")
    loss = distilled(teacher, student, from_logits=(True, None))
    logits = X["text"].astype("float64") @ array(teacher.dense.kernel)
    taught = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    assert np.isclose(loss, expected(taught, answers(student, X["audio"])), rtol=1e-4)


JOINERS = {"ensemble": training.ensemble, "mutual learning": distill.MutualLearning}


@pytest.mark.parametrize("join", JOINERS.values(), ids=JOINERS)
def test_models_of_one_batch_take_the_same_features(join):
    for one, other in [
        (named("audio"), named("video")),
        (
            [keras.Input((6,), name=n) for n in ("audio", "video")],
            [keras.Input((6,), name=n) for n in ("video", "audio")],
        ),
    ]:
        with pytest.raises(ValueError, match="the same features in the same order.*'net0' with.*'net1' with"):
            join([net(one, name="net0"), net(other, name="net1")])
