"""A model is more than its call: preprocessors of keras_hub run on both sides, and all else is refused."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from distilling import LOGIT_CE, array, nets, soft
from keras import layers

import distill
from distill import training

hub = pytest.importorskip("keras_hub")

# tensorflow and numpy disagree about a keyword of __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WORDS = ["good", "bad", "film", "the", "a", "very"]
TEXTS = np.array(["good film", "a bad film", "the very good", "bad bad film", "very", "a"])
Y = np.array([0, 1, 2, 1, 0, 2])
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype("float32")
SGD0 = functools.partial(keras.optimizers.SGD, 0.0)


class Reader(hub.models.Task):
    """A small task model of texts: logits of three classes, or of all words for each token."""

    def __init__(self, preprocessor, words=8, length=4, *, each=False, **kwargs):
        inputs = keras.Input((length,), dtype="int32")
        x = layers.Embedding(words, 4)(inputs)
        super().__init__(
            inputs, layers.Dense(words)(x) if each else layers.Dense(3)(layers.Flatten()(x)), **kwargs
        )
        self.preprocessor = preprocessor


class Viewer(hub.models.Task):
    """A small task model of images."""

    def __init__(self, preprocessor, size=8, **kwargs):
        inputs = keras.Input((size, size, 3))
        super().__init__(inputs=inputs, outputs=layers.Dense(3)(layers.Flatten()(inputs)), **kwargs)
        self.preprocessor = preprocessor


def reader(preprocessor, seed=0, **kwargs):
    return spread(Reader(preprocessor, **kwargs), seed)


def viewer(preprocessor, seed=0, **kwargs):
    return spread(Viewer(preprocessor, **kwargs), seed)


def vectorizer(length=4, words=WORDS):
    return layers.TextVectorization(output_sequence_length=length, vocabulary=words)


def image_preprocessor(**converter):
    converter = hub.layers.ResNetImageConverter(**{"image_size": (8, 8), "scale": 1 / 255, **converter})
    return hub.models.ResNetImageClassifierPreprocessor(converter)


def spread(model, seed):
    """Random weights large enough for answers to differ."""
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(scale=0.5, size=w.shape) for w in model.get_weights()])
    return model


def by_hand(preprocessor, texts):
    """What the preprocessor makes of texts, called eagerly."""
    return array(preprocessor(tf.constant(texts))).astype("int32")


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def expected(taught, learned):
    """The loss against logits that are given."""
    return np.mean(soft(np.exp(log_softmax(taught)), np.exp(log_softmax(learned))))


def distilled(teacher, student, x, y=None, **kwargs):
    """The distillation loss of one step that changes nothing."""
    distiller = training.Distiller(
        teacher, student, distill.SoftTargets(4.0), student_loss_weight=0.0, **kwargs
    )
    distiller.compile(SGD0(), jit_compile=False)
    return distiller.fit(x, y, batch_size=6, shuffle=False, verbose=0).history["soft_targets"][0]


@pytest.fixture(scope="module")
def texts():
    """Teacher and student with preprocessors of their own, and the logits of both for inputs tokenized by hand."""
    teacher, student = reader(vectorizer()), reader(vectorizer(3, WORDS[::-2]), seed=1, length=3)
    logits = [array(model(by_hand(model.preprocessor, TEXTS))) for model in (teacher, student)]
    return teacher, student, *logits


FORMS = {
    "numpy's strings": lambda: (TEXTS, None),
    "a list": lambda: (TEXTS.tolist(), None),
    "a tensor": lambda: (tf.constant(TEXTS), None),
    "a data set": lambda: (tf.data.Dataset.from_tensor_slices((TEXTS, Y)).batch(6), None),
    "with labels": lambda: (TEXTS.tolist(), Y.tolist()),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.sweep(2)
def test_each_model_reads_strings_with_its_own_tokenizer(texts, form):
    teacher, student, taught, learned = texts
    assert np.isclose(distilled(teacher, student, *FORMS[form]()), expected(taught, learned), rtol=1e-4)


def test_evaluation_validation_and_prediction_are_those_of_the_student(texts):
    teacher, student, _, learned = texts
    distiller = training.Distiller(teacher, student, distill.SoftTargets(4.0))
    distiller.compile(SGD0(), LOGIT_CE, metrics=["accuracy"], jit_compile=False)
    cross_entropy = -np.mean(log_softmax(learned)[np.arange(6), Y])
    accuracy = np.mean(np.argmax(learned, axis=-1) == Y)
    np.testing.assert_allclose(distiller.evaluate(TEXTS, Y, verbose=0), [cross_entropy, accuracy], rtol=1e-4)
    np.testing.assert_allclose(distiller.test_on_batch(TEXTS, Y), [cross_entropy, accuracy], rtol=1e-4)
    np.testing.assert_allclose(distiller.predict(TEXTS.tolist(), batch_size=4, verbose=0), learned, atol=1e-5)
    np.testing.assert_allclose(distiller.predict_on_batch(TEXTS.tolist()), learned, atol=1e-5)
    on_batch = distiller.train_on_batch(TEXTS, Y, return_dict=True)
    assert np.isclose(on_batch["student_loss"], cross_entropy, rtol=1e-4)
    logs = distiller.fit(TEXTS[:3], Y[:3], validation_data=(TEXTS.tolist(), Y), verbose=0).history
    assert np.isclose(logs["val_loss"][0], cross_entropy, rtol=1e-4)
    half = distiller.fit(TEXTS, Y, validation_split=0.5, verbose=0).history
    assert np.isclose(half["val_loss"][0], -np.mean(log_softmax(learned)[np.arange(3, 6), Y[3:]]), rtol=1e-4)


def test_training_on_raw_data_is_training_on_preprocessed_arrays_bit_for_bit():
    def trained(*, raw):
        shared = vectorizer()
        x = TEXTS if raw else by_hand(shared, TEXTS)
        teacher, student = (reader(shared if raw else None, seed) for seed in range(2))
        distiller = training.Distiller(teacher, student, distill.SoftTargets(2.0))
        distiller.compile(keras.optimizers.SGD(0.1), LOGIT_CE, jit_compile=False)
        keras.utils.set_random_seed(3)
        distiller.fit(x, Y, batch_size=4, epochs=2, class_weight={0: 1.0, 1: 2.0, 2: 0.5}, verbose=0)
        return student.get_weights()

    for one, other in zip(trained(raw=True), trained(raw=False), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_the_other_model_gets_the_batch_as_it_is(texts, side):
    inputs = keras.Input((), dtype="string")
    bag = layers.TextVectorization(output_mode="multi_hot", vocabulary=WORDS)
    plain = keras.Model(inputs, layers.Dense(3, kernel_initializer="normal")(bag(inputs)))
    counted = np.array([[word in text.split() for word in WORDS] for text in TEXTS], "float64")
    logits = counted @ array(plain.layers[-1].kernel)[1:]
    teacher, student, taught, learned = texts
    models, wanted = (
        ((plain, student), (logits, learned)) if side == "teacher" else ((teacher, plain), (taught, logits))
    )
    assert np.isclose(distilled(*models, TEXTS), expected(*wanted), rtol=1e-4)


def test_several_teachers(texts):
    teacher, student, taught, learned = texts
    other = reader(teacher.preprocessor, seed=4)
    both = [taught, array(other(by_hand(teacher.preprocessor, TEXTS)))]
    wanted = np.mean([expected(one, learned) for one in both])
    assert np.isclose(distilled([teacher, other], student, TEXTS), wanted, rtol=1e-4)


def test_preprocessing_that_is_given_takes_the_place_of_the_teachers_own(texts):
    teacher, student, _, learned = texts
    other = vectorizer(4, WORDS[::-1])
    taught = array(teacher(by_hand(other, TEXTS)))
    loss = distilled(teacher, student, TEXTS, teacher_preprocessing=other)
    assert np.isclose(loss, expected(taught, learned), rtol=1e-4)


def test_a_preprocessor_that_is_taken_away_is_gone(texts):
    shared = vectorizer()
    teacher, student = reader(shared), reader(shared, seed=1)
    x = by_hand(shared, TEXTS)
    distiller = training.Distiller(teacher, student, distill.SoftTargets(4.0), student_loss_weight=0.0)
    distiller.compile(SGD0(), jit_compile=False)
    before = distiller.fit(TEXTS, verbose=0).history["soft_targets"][0]
    teacher.preprocessor = student.preprocessor = None
    assert np.isclose(distiller.fit(x, verbose=0).history["soft_targets"][0], before, rtol=1e-5)


def test_what_keras_calls_for_every_batch_and_epoch_still_is_called(texts):
    teacher, student, taught, learned = texts

    class Source(keras.utils.PyDataset):
        ends = 0

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return tf.constant(TEXTS[3 * i : 3 * i + 3]), Y[3 * i : 3 * i + 3]

        def on_epoch_end(self):
            self.ends += 1

    def generator():
        while True:
            yield tf.constant(TEXTS), Y

    distiller = training.Distiller(teacher, student, distill.SoftTargets(4.0))
    distiller.compile(SGD0(), LOGIT_CE, jit_compile=False)
    source = Source()
    logs = distiller.fit(source, epochs=2, verbose=0).history
    assert source.ends >= 2
    np.testing.assert_allclose(logs["soft_targets"], expected(taught, learned), rtol=1e-4)
    logs = distiller.fit(generator(), steps_per_epoch=2, shuffle=False, verbose=0).history
    np.testing.assert_allclose(logs["soft_targets"], expected(taught, learned), rtol=1e-4)
    with pytest.raises(ValueError, match="takes strings only as tensors"):
        distiller.fit(((TEXTS, Y) for _ in range(2)), shuffle=False, verbose=0)


# Images.


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("sides", ["teacher", "student", "both"])
@pytest.mark.sweep(2)
def test_images_are_scaled_for_the_model_that_has_a_converter(sides, dtype):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 3))
    plain = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Rescaling(0.01)(inputs))))
    teacher = plain if sides == "student" else viewer(image_preprocessor())
    student = (
        plain if sides == "teacher" else viewer(image_preprocessor(scale=1 / 127.5, offset=-1.0), seed=1)
    )
    x, scaled = IMAGES.astype(dtype), IMAGES / 255
    taught = plain(IMAGES) if sides == "student" else teacher(scaled)
    learned = plain(IMAGES) if sides == "teacher" else student(2 * scaled - 1)
    assert np.isclose(distilled(teacher, student, x), expected(array(taught), array(learned)), rtol=1e-4)


def test_images_of_another_size():
    small = viewer(image_preprocessor())
    inputs = keras.Input((16, 16, 3))
    student = keras.Model(
        inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(inputs)))
    )
    x = np.repeat(np.repeat(IMAGES, 2, axis=1), 2, axis=2)  # to halve it again loses nothing
    assert np.isclose(
        distilled(small, student, x), expected(array(small(IMAGES / 255)), array(student(x))), rtol=1e-4
    )


@pytest.mark.parametrize("form", ["arrays", "a data set", "a batch"])
@pytest.mark.sweep(1)
def test_data_that_is_preprocessed_already_is_noticed(form):
    teacher = viewer(image_preprocessor(), name="scaling")
    inputs = keras.Input((8, 8, 3))
    student = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs)))
    distiller = training.Distiller(teacher, student, distill.SoftTargets(4.0), student_loss_weight=0.0)
    distiller.compile(SGD0(), jit_compile=False)
    x = IMAGES / 255
    data = x if form == "arrays" else tf.data.Dataset.from_tensor_slices(x).batch(2)
    train = (
        (lambda: distiller.train_on_batch(x))
        if form == "a batch"
        else lambda: distiller.fit(data, shuffle=False, verbose=0)
    )
    noticed = r"teacher 'scaling' makes small numbers.*from 0 to 1 before.*to 0.00392"
    with pytest.warns(UserWarning, match=noticed) as seen:
        train()
    assert sum(warning.category is UserWarning for warning in seen) == 1
    loss = distilled(teacher, student, x, teacher_preprocessing=layers.Identity())
    assert np.isclose(loss, expected(array(teacher(x)), array(student(x))), rtol=1e-4)


def test_tokens_are_noticed_too(texts):
    teacher, student, *_ = texts
    plain = reader(None, seed=1)
    for x in (by_hand(teacher.preprocessor, TEXTS), {"ids": by_hand(teacher.preprocessor, TEXTS)}):
        with pytest.raises(
            ValueError, match=r"preprocessor of the teacher '.*takes raw data.*int32.*preprocessor to None"
        ):
            distilled(teacher, plain, x)
    with pytest.raises(ValueError, match=r"preprocessor of the student '.*takes raw data.*int32"):
        training.Distiller(nets(4)[0], student, distill.SoftTargets(4.0)).predict(
            np.ones((6, 3), "int32"), verbose=0
        )


# Labels that a preprocessor makes.


class Next(hub.models.Preprocessor):
    """Makes the next token the label, as those of causal language models do, after a step that may be random."""

    def __init__(self, change=lambda x: x):
        super().__init__()
        self.change = change

    def call(self, x, y=None, sample_weight=None):
        x = self.change(tf.convert_to_tensor(x))
        return x[:, :-1], x[:, 1:], tf.cast(x[:, 1:] != 0, "float32")


TOKENS = np.random.default_rng(1).integers(0, 8, (6, 5)).astype("int32")


@pytest.mark.parametrize("shared", [True, False])
def test_labels_and_weights_that_a_preprocessor_makes(shared):
    one = Next()
    teacher, student = reader(one if shared else Next(), each=True), reader(one, 1, each=True)
    x, y, weight = TOKENS[:, :-1], TOKENS[:, 1:], TOKENS[:, 1:] != 0
    taught, learned = array(teacher(x)), array(student(x))
    distiller = training.Distiller(teacher, student, distill.SoftTargets(4.0))
    distiller.compile(SGD0(), LOGIT_CE, jit_compile=False)
    logs = distiller.fit(TOKENS, verbose=0).history
    rows = soft(np.exp(log_softmax(taught)), np.exp(log_softmax(learned)))
    assert np.isclose(logs["soft_targets"][0], np.mean(weight * rows), rtol=1e-4)
    picked = np.take_along_axis(log_softmax(learned), y[..., None], axis=-1)[..., 0]
    assert np.isclose(logs["student_loss"][0], -np.mean(weight * picked), rtol=1e-4)


def test_models_that_see_other_tokens_are_refused():
    student = reader(Next(), 1, each=True)
    shorter = reader(Next(lambda x: x[:, 1:]), each=True, length=None)
    with pytest.raises(ValueError, match=r"makes the labels.*teacher.preprocessor = student.preprocessor"):
        distilled(shorter, student, TOKENS)
    turned = reader(Next(lambda x: x[:, ::-1]), each=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="teacher.preprocessor = student.preprocessor"):
        distilled(turned, student, TOKENS)


def test_one_preprocessor_draws_its_random_numbers_once():
    one = Next(lambda x: tf.random.uniform(tf.shape(x), 0, 8, x.dtype))
    # The same weights, on the same tokens.
    assert distilled(reader(one, each=True), reader(one, each=True), TOKENS) < 1e-6


# Networks that learn from each other, ensembles, measurements.


def test_networks_that_learn_from_each_other_have_one_preprocessor():
    shared = vectorizer()
    one, other = (reader(shared, seed=i, name=f"net{i}") for i in range(2))
    logits = [array(model(by_hand(shared, TEXTS))) for model in (one, other)]
    peers = distill.MutualLearning([one, other], distill.SoftTargets(4.0))
    peers.compile(SGD0(), LOGIT_CE, jit_compile=False)
    logs = peers.fit(TEXTS, Y, verbose=0).history
    assert np.isclose(logs["net0_soft_targets"][0], expected(logits[1], logits[0]), rtol=1e-4)
    for answer, wanted in zip(peers.predict(TEXTS.tolist(), verbose=0), logits, strict=True):
        np.testing.assert_allclose(answer, wanted, atol=1e-5)
    other.preprocessor = vectorizer()
    with pytest.raises(
        ValueError, match="one preprocessor, the same object.*'net0' with TextVec.*'net1' with TextVec"
    ):
        distill.MutualLearning([one, other])
    other.preprocessor = None
    with pytest.raises(ValueError, match="'net1' with none"):
        distill.MutualLearning([one, other])


def test_an_ensemble_refuses_what_it_would_drop():
    members = [reader(vectorizer(), seed=i, name=f"net{i}") for i in range(2)]
    with pytest.raises(
        ValueError, match=r"'net0' with a preprocessor.*keras.Model\(model.input, model.output\)"
    ):
        training.ensemble(members)
    wrapped = [keras.Model(one.input, one.output, name=one.name) for one in members]
    assert training.ensemble(wrapped).output_shape == (None, 3)


def test_batch_sizes_are_measured_on_what_fit_trains_on(texts):
    teacher, student, *_ = texts
    distiller = training.Distiller(teacher, student, distill.SoftTargets(4.0))
    for model in (distiller, student):
        model.compile(SGD0(), LOGIT_CE, jit_compile=False)
        assert training.largest_batch(model, (TEXTS, Y), sizes=(2, 3), runs=1).largest == 3


def test_calls_take_what_is_preprocessed(texts):
    teacher, student, taught, learned = texts
    distiller = training.Distiller(teacher, student, distill.SoftTargets(4.0))
    distiller.compile(SGD0(), LOGIT_CE, jit_compile=False)
    np.testing.assert_allclose(array(distiller(by_hand(student.preprocessor, TEXTS))), learned, atol=1e-5)
    np.testing.assert_allclose(array(distiller.teacher(TEXTS.tolist()).outputs), taught, atol=1e-5)
    x = by_hand(student.preprocessor, TEXTS)
    with pytest.raises(ValueError, match=r"Received: x as it is.*preparation\(teaching=True\)"):
        distiller.compute_loss(x=x, y=Y)


@pytest.mark.slow
def test_task_models_of_keras_hub_as_they_come():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]

    def preprocessor(words, length):
        tokenizer = hub.tokenizers.BertTokenizer(words, lowercase=True)
        return hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=length)

    def bert(length, seed):
        backbone = hub.models.BertBackbone(
            vocabulary_size=len(words),
            num_layers=1,
            num_heads=1,
            hidden_dim=4,
            intermediate_dim=4,
            dropout=0.0,
            max_sequence_length=length,
        )
        own = preprocessor(words, length)
        return spread(hub.models.BertTextClassifier(backbone, 3, preprocessor=own, dropout=0.0), seed)

    teacher, student, pair = bert(8, 0), bert(6, 1), (TEXTS.tolist(), TEXTS[::-1].tolist())
    given = preprocessor([*words[:5], *words[:4:-1]], 8)
    taught, learned = teacher(given(pair, y=None)), student(student.preprocessor(pair, y=None))
    loss = distilled(teacher, student, (TEXTS, TEXTS[::-1]), teacher_preprocessing=given)
    assert np.isclose(loss, expected(array(taught), array(learned)), rtol=1e-4)
