"""Models of Keras 3 in every format, SavedModels and presets compute the same after loading."""

import pickle
import shutil
import zipfile

import keras
import numpy as np
import pytest
from backend import only_on, since_keras
from conftest import dense_net
from keras import layers, ops

import distill
from distill.files import InferenceOnly


def answers(model, inputs):
    outputs = model(inputs[0] if len(inputs) == 1 else inputs, training=False)
    return [ops.convert_to_numpy(y) for y in (outputs if isinstance(outputs, list) else [outputs])]


# Keras 3


@keras.saving.register_keras_serializable("test_loading")
class Scale(layers.Layer):
    """A registered layer."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, inputs):
        return inputs * self.scale


def rich_net():
    """Shared and nested layers, raw operations, statistics, and a layer of the user's."""
    inputs = keras.Input((6,))
    shared = layers.Dense(6, "relu")
    x = Scale()(shared(shared(layers.Normalization(mean=np.arange(6.0), variance=np.ones(6))(inputs))))
    x = ops.concatenate([x, keras.Sequential([layers.Dense(4), layers.BatchNormalization()])(x)], axis=-1)
    x = layers.Reshape((5, 2))(x)
    x = layers.Bidirectional(layers.GRU(3, stateful=False), merge_mode="sum")(x)
    model = keras.Model(inputs, layers.Dense(3, "softmax")(layers.Dropout(0.5)(ops.relu(x) + x)))
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.2, 0.8, w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize("form", ["model.keras", "model.h5"])
@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_layers_that_keep_their_states_between_batches(tmp_path, form, kind):
    model = keras.Sequential([keras.Input(batch_shape=(2, 5, 3)), kind(4, stateful=True)])
    model.save(tmp_path / form)
    loaded = distill.load_model(tmp_path / form)
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    for _ in range(2):  # the second call continues from the states of the first
        np.testing.assert_allclose(loaded(x), model(x), rtol=0, atol=1e-6)
    assert loaded.layers[0].stateful


@pytest.mark.parametrize("form", ["model.keras", "model.h5", "unpacked", "model.json", "renamed"])
@pytest.mark.sweep(2)
def test_a_model_of_keras_3(tmp_path, batch, form):
    model = rich_net()
    model.compile("adam", "mse")
    weights = None
    if form == "unpacked":
        keras.saving.save_model(model, tmp_path / form, zipped=False)
    elif form == "model.json":
        (tmp_path / form).write_text(model.to_json())
        weights = tmp_path / "w.weights.h5"
        model.save_weights(weights)
    elif form == "renamed":  # the content counts, not the ending
        model.save(tmp_path / "model.h5")
        (tmp_path / "model.h5").rename(tmp_path / form)
    else:
        model.save(tmp_path / form)
    loaded = distill.load_model(tmp_path / form, weights=weights)
    np.testing.assert_array_equal(*answers(model, [batch[0]]), *answers(loaded, [batch[0]]))
    assert [w.dtype for w in loaded.weights] == [w.dtype for w in model.weights]
    assert not loaded.compiled


def test_words_and_precision_come_along(tmp_path):
    inputs = keras.Input((1,), dtype="string")
    words = layers.StringLookup(vocabulary=["ab", "cd"])(inputs)
    model = keras.Model(inputs, layers.Embedding(4, 2, dtype="mixed_bfloat16")(words))
    model.save(tmp_path / "words.keras")
    loaded = distill.load_model(tmp_path / "words.keras")
    x = ops.convert_to_tensor([["cd"], ["ef"]])
    np.testing.assert_array_equal(*answers(model, [x]), *answers(loaded, [x]))
    half = keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype="bfloat16")])
    half.save(tmp_path / "half.keras")
    loaded = distill.load_model(tmp_path / "half.keras")
    np.testing.assert_array_equal(half.get_weights()[0], loaded.get_weights()[0])


def test_words_that_were_learned_are_in_the_file_or_missed(tmp_path):
    lookup = layers.StringLookup(name="words")
    lookup.adapt(np.array(["a", "b"]))
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, layers.Embedding(3, 2)(lookup(inputs)))
    model.save(tmp_path / "whole.keras")
    with (
        zipfile.ZipFile(tmp_path / "whole.keras") as whole,
        zipfile.ZipFile(tmp_path / "b.keras", "w") as bare,
    ):
        for name in whole.namelist():
            if not name.startswith("assets"):
                bare.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match="with 0 vocabularies for words"):
        distill.load_model(tmp_path / "b.keras")
    loaded = distill.load_model(tmp_path / "whole.keras")
    assert loaded.get_layer("words").get_vocabulary() == lookup.get_vocabulary()


@only_on("tensorflow", reason="Keras weights words by frequency in TensorFlow alone")
@since_keras("3.14", reason="Keras itself cannot load frequencies of words")
@pytest.mark.parametrize("kind", [layers.StringLookup, layers.TextVectorization])
def test_frequencies_of_words_come_along(tmp_path, kind):
    lookup = kind(output_mode="tf_idf")
    words = np.array([["a"], ["b"], ["a"], ["c"]])
    lookup.adapt(words)
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, layers.Dense(2)(lookup(inputs)))
    model.save(tmp_path / "words.keras")
    loaded = distill.load_model(tmp_path / "words.keras")
    x = ops.convert_to_tensor(words)
    np.testing.assert_array_equal(*answers(model, [x]), *answers(loaded, [x]))


def test_layers_of_ones_own_are_named_by_the_caller(tmp_path, batch):
    class Double(layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    model = keras.Sequential([keras.Input((6,)), Double(), layers.Dense(2)])
    for name in ("own.keras", "own.h5"):
        model.save(tmp_path / name)
        with pytest.raises(ValueError, match="pass custom_objects=\\{'?Double'?: Double\\}"):
            distill.load_model(tmp_path / name)
        loaded = distill.load_model(tmp_path / name, custom_objects={"Double": Double})
        assert type(loaded.layers[0]) is Double
        np.testing.assert_array_equal(*answers(model, [batch[0]]), *answers(loaded, [batch[0]]))


def test_a_loaded_model_trains_and_takes_no_memory_twice(tmp_path, batch):
    dense_net(8).save(tmp_path / "m.keras")
    loaded = distill.load_model(tmp_path / "m.keras")
    loaded.compile("sgd", "sparse_categorical_crossentropy")
    before = loaded.get_weights()[0]
    loaded.fit(*batch, verbose=0)
    assert np.abs(loaded.get_weights()[0] - before).max() > 0


# SavedModels and presets


@only_on("tensorflow", reason="a SavedModel is TensorFlow's")
def test_a_saved_model_of_keras_3(tmp_path, batch):
    model = dense_net(8, batch_norm=True)
    model.export(tmp_path / "saved", verbose=False)
    with pytest.raises(ValueError, match="a TensorFlow program"):
        distill.load_model(tmp_path / "saved")
    loaded = distill.load_model(tmp_path / "saved", trust=True)
    assert isinstance(loaded, InferenceOnly)
    assert loaded.call_endpoint == "serve"
    assert not loaded.trainable_weights
    named = distill.load_model(tmp_path / "saved", trust=True, endpoint="serving_default")
    for run in (loaded, named):
        np.testing.assert_allclose(*answers(run, [batch[0]]), *answers(model, [batch[0]]), rtol=0, atol=1e-6)
    distiller = distill.Distiller(
        loaded, dense_net(4), distill.SoftTargets(2.0), from_logits=(False, None), student_loss_weight=0
    )
    distiller.compile("sgd")
    untouched = [ops.convert_to_numpy(w) for w in loaded.weights]
    assert distiller.train_on_batch(batch[0], return_dict=True)["soft_targets"] > 0
    assert all(
        np.array_equal(w, ops.convert_to_numpy(v)) for w, v in zip(untouched, loaded.weights, strict=True)
    )


@only_on("tensorflow", reason="a SavedModel is TensorFlow's")
def test_a_saved_model_of_other_functions_has_one_named(tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.f = tf.function(lambda x: 2 * x, [tf.TensorSpec((None,))])
    tf.saved_model.save(module, tmp_path / "two", signatures={"a": module.f, "b": module.f})
    with pytest.raises(ValueError, match="\\['a', 'b'\\]. Pass its name as endpoint"):
        distill.load_model(tmp_path / "two", trust=True)
    assert distill.load_model(tmp_path / "two", trust=True, endpoint="b")(np.ones(1, "float32")) == [2]
    with pytest.raises(ValueError, match="Available endpoints"):
        distill.load_model(tmp_path / "two", trust=True, endpoint="c")


def test_a_preset_of_keras_hub(tmp_path):
    import keras_hub

    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=20,
        num_layers=1,
        num_heads=2,
        hidden_dim=4,
        intermediate_dim=6,
        max_sequence_length=8,
    )
    task = keras_hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None)
    task.save_to_preset(tmp_path / "task")
    backbone.save_to_preset(tmp_path / "backbone")
    task.save(tmp_path / "task.keras")
    shape = (2, 8)
    inputs = {"token_ids": np.arange(16).reshape(shape), "segment_ids": np.zeros(shape, int)}
    inputs["padding_mask"] = np.ones(shape, int)
    for name, model in (("task", task), ("backbone", backbone), ("task.keras", task)):
        loaded = distill.load_model(tmp_path / name)
        assert type(loaded) is type(model)
        for y, expected in zip(
            keras.tree.flatten(loaded(inputs)), keras.tree.flatten(model(inputs)), strict=True
        ):
            np.testing.assert_array_equal(y, expected)
    path = tmp_path / "task" / "task.json"
    honest = path.read_text()
    path.write_text(honest.replace('"vocabulary_size": 20', '"vocabulary_size": 21'))
    with pytest.raises(ValueError, match="task.json has another backbone than config.json"):
        distill.load_model(tmp_path / "task")
    path.write_text(honest)
    weights = tmp_path / "task" / "task.weights.h5"
    weights.rename(tmp_path / "head")
    with pytest.raises(ValueError, match="without task.weights.h5"):
        distill.load_model(tmp_path / "task")
    (tmp_path / "head").rename(weights)
    shutil.copy(weights, tmp_path / "backbone" / "model.weights.h5")
    with pytest.raises(ValueError, match="The weights of a preset must fit its backbone"):
        distill.load_model(tmp_path / "backbone")


# trust=True


def test_code_runs_where_it_is_trusted(tmp_path, batch):
    model = keras.Sequential([keras.Input((6,)), layers.Lambda(lambda x: 3 * x), layers.Dense(2)])
    for name in ("code.keras", "code.h5"):
        model.save(tmp_path / name)
        loaded = distill.load_model(tmp_path / name, trust=True)
        np.testing.assert_array_equal(*answers(model, [batch[0]]), *answers(loaded, [batch[0]]))
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(dense_net(2)))
    assert isinstance(distill.load_model(tmp_path / "model.pickle", trust=True), keras.Model)
    (tmp_path / "other.pickle").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="a list"):
        distill.load_model(tmp_path / "other.pickle", trust=True)


# Wrong arguments


def test_halves_of_a_model_say_what_is_missing(tmp_path):
    model = dense_net(2)
    model.save_weights(tmp_path / "w.weights.h5")
    (tmp_path / "m.json").write_text(model.to_json())
    with pytest.raises(ValueError, match="cannot be loaded without its architecture"):
        distill.load_model(tmp_path / "w.weights.h5")
    with pytest.raises(ValueError, match="cannot be loaded without its weights"):
        distill.load_model(tmp_path / "m.json")
    with pytest.raises(ValueError, match="takes a path or a tf_keras model"):
        distill.load_model(model)
    dense_net(3).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match="must fit its architecture") as caught:
        distill.load_model(tmp_path / "m.json", weights=tmp_path / "other.weights.h5")
    assert "hidden  kernel  (6, 2)    (6, 3)" in str(caught.value)


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="a zip archive of \\['readme.txt'\\]"):
        distill.load_model(tmp_path / "a.keras")
    (tmp_path / "m.txt").write_text("hello")
    with pytest.raises(ValueError, match="which begins with b'hello'"):
        distill.load_model(tmp_path / "m.txt")


def test_what_would_be_ignored_is_refused(tmp_path):
    keras.Sequential([keras.Input((2,)), layers.Dense(1)]).save(tmp_path / "a.keras")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"Received: weights='w\.h5' with .*folder"):
        distill.load_model(tmp_path / "folder", weights="w.h5", trust=True)


def test_weights_of_another_file_do_not_replace_those_of_a_model(tmp_path):
    model = dense_net(4)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"with '.*m\.keras', which has its own. Leave weights out"):
        distill.load_model(tmp_path / "m.keras", weights=tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"Received: endpoint='serve' with .*a\.keras"):
        distill.load_model(tmp_path / "a.keras", endpoint="serve")


def test_a_saved_model_takes_a_dictionary_of_inputs(tmp_path):
    """Keras writes its function under one name twice: as a signature, and as an attribute that takes one argument."""
    inputs = {name: keras.Input((3,), name=name) for name in ("ids", "mask")}
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs["ids"] * inputs["mask"]))
    x = {
        name: np.random.default_rng(i).normal(size=(4, 3)).astype("float32") for i, name in enumerate(inputs)
    }
    model.export(tmp_path / "keras", verbose=False)
    distill.export(model, tmp_path / "own")
    for name in ("keras", "own"):
        teacher = distill.load_model(tmp_path / name, trust=True)
        np.testing.assert_allclose(teacher(x), model(x), rtol=1e-5, atol=1e-6)
