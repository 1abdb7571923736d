"""Files that try to run code, to read other files or to take memory, or are broken: all they get is one clear error."""

import base64
import io
import json
import marshal
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from backend import only_on
from conftest import dense_net
from keras.src.backend.common import global_state

import distill
from distill._keras import Functional, core, numpy_ops
from distill.files import _guards, _loading

MOST_MEMORY = 300  # MB above the imports, however large a file claims to be
CODE = "__import__('pathlib').Path('ran').touch()"


@pytest.fixture(autouse=True)
def harmless(tmp_path, monkeypatch):
    """A working directory where code in a file would leave a trace, with a module that must not be imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text("import pathlib; pathlib.Path('ran').touch()\nclass Evil: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert not (tmp_path / "ran").exists()
    assert "evil_module" not in sys.modules


@pytest.fixture
def good(tmp_path):
    """A good .keras file, which the tests spoil."""
    dense_net(4).save(tmp_path / "good.keras")
    return tmp_path / "good.keras"


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """Load a path in a separate process under a limit of memory; returns the errors and the peak in MB."""
    good = tmp_path_factory.mktemp("good") / "good.keras"
    dense_net(4).save(good)
    command = [sys.executable, str(Path(__file__).with_name("load_under_limit.py")), str(good)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def load(path):
            process.stdin.write(json.dumps(str(path)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, "the process died"
            return json.loads(answer)

        yield load
        process.stdin.close()
        assert process.wait() == 0


@pytest.fixture
def refused(limited):
    """Expect load_model and load_weights to fail with one error, to leave no file behind and to take little memory."""

    def refuse(path, match):
        there = limited(path)  # first, so that only a process with a limit can take too much
        assert there["peak"] < MOST_MEMORY
        before = sorted(os.listdir())
        model, texts = dense_net(4), []
        for load in (lambda: distill.load_model(path), lambda: distill.load_weights(model, path)):
            tracemalloc.start()
            try:
                load()
            except ValueError as caught:
                texts.append(str(caught))
            finally:
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            assert peak < 20e6
        assert texts, "it was loaded"
        assert match in texts[0]
        assert match in (there["errors"][0] or there["errors"][1])
        assert str(path) in texts[0]
        assert sorted(os.listdir()) == before
        return texts

    return refuse


def changed(good, change, name="bad.keras"):
    """A copy of the archive with another config."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(good.with_name(name), "w") as new:
        for member in old.namelist():
            content = old.read(member)
            if member == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config)
            new.writestr(member, content)
    return good.with_name(name)


def in_h5(config, path, version="3.15.1"):
    """An HDF5 file with this architecture and no weights."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = version
        file.create_group("model_weights").attrs["layer_names"] = np.array([], "S1")
    return path


def sequential(*listed):
    first = {"class_name": "InputLayer", "module": "keras.layers", "config": {"batch_shape": [None, 6]}}
    return {
        "class_name": "Sequential",
        "module": "keras",
        "config": {"name": "s", "layers": [first, *listed]},
    }


# Code


def lambda_layer():
    code = base64.b64encode(marshal.dumps(compile(CODE, "evil", "eval"))).decode()
    stored = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    return {"class_name": "Lambda", "module": "keras.layers", "config": {"name": "l", "function": stored}}


def old_lambda_layer():
    code = base64.b64encode(marshal.dumps(compile(CODE, "evil", "eval"))).decode()
    config = {"name": "l", "function": [code, None, None], "function_type": "lambda", "module": "evil_module"}
    return {"class_name": "Lambda", "config": config}


FOREIGN = {
    "a class of a module": {"class_name": "Evil", "module": "evil_module", "config": {}},
    "a function of a module": {
        "class_name": "Activation",
        "module": "keras.layers",
        "config": {"activation": {"class_name": "function", "module": "evil_module", "config": "Evil"}},
    },
    "Python's own": {"class_name": "system", "module": "os", "config": {"command": "touch ran"}},
    "a dotted name": {"class_name": "layers.Lambda", "module": "keras", "config": {"function": "x"}},
    "what Keras has besides layers": {
        "class_name": "Model",
        "module": "keras.src.saving.saving_api",
        "config": {},
    },
    "a function of Keras that writes": {
        "class_name": "Activation",
        "module": "keras.layers",
        "config": {"activation": {"class_name": "function", "module": "keras.utils", "config": "get_file"}},
    },
    "a switch of Keras": {
        "class_name": "function",
        "module": "keras.config",
        "config": "enable_unsafe_deserialization",
    },
    "a type of TensorFlow": {
        "class_name": "__typespec__",
        "module": "evil_module",
        "config": [],
        "spec_name": "Evil",
        "registered_name": None,
    },
    "numbers for names": {"class_name": "Dense", "module": 7, "config": {}},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_classes_are_keras_own_or_the_callers(refused, good, tmp_path, what):
    bad = changed(good, lambda config: config.update(sequential(FOREIGN[what])))
    refused(bad, "which is neither" if what != "numbers for names" else "Classes must be given by name")
    refused(in_h5(sequential(FOREIGN[what]), tmp_path / "bad.h5"), "Received")
    unsafe = keras.src.saving.serialization_lib.in_safe_mode()
    assert unsafe is None


def test_lambdas_are_not_run(refused, good, tmp_path):
    match = "A file that carries code is not loaded"
    refused(changed(good, lambda config: config.update(sequential(lambda_layer()))), match)
    refused(in_h5(sequential(lambda_layer()), tmp_path / "new.h5"), match)
    refused(in_h5(sequential(old_lambda_layer()), tmp_path / "old.h5", "2.15.0"), match)
    wrapped = {"class_name": "TimeDistributed", "config": {"layer": old_lambda_layer()}}
    refused(in_h5(sequential(wrapped), tmp_path / "wrapped.h5", "2.15.0"), match)
    named = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": "relu"}}
    refused(changed(good, lambda config: config.update(sequential(named))), "with a Lambda")
    hidden = lambda_layer()["config"]["function"]  # code in another place than a Lambda
    bad = {"class_name": "Dense", "module": "keras.layers", "config": {"units": 2, "activation": hidden}}
    refused(changed(good, lambda config: config.update(sequential(bad))), match)


@pytest.mark.parametrize("kind", ["TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"])
def test_layers_that_read_programs_are_not_made(refused, good, kind):
    bad = {"class_name": kind, "module": "keras.layers", "config": {"filepath": "evil", "module": "evil"}}
    refused(changed(good, lambda config: config.update(sequential(bad))), f"with a {kind}")


def test_what_keras_is_told_to_run_by_name_must_be_known(refused, good):
    def change(config):
        config["config"]["layers"][1]["registered_name"] = "evil>Dense"
        config["config"]["layers"][1]["module"] = "evil_module"

    refused(changed(good, change), "custom_objects={'evil>Dense': Dense}")


def test_words_are_not_read_from_other_files(refused, good, tmp_path):
    (tmp_path / "secret").write_text("secret\n")
    bad = {"class_name": "StringLookup", "module": "keras.layers", "config": {"vocabulary": "secret"}}
    refused(
        changed(good, lambda config: config.update(sequential(bad))), "would read vocabulary from 'secret'"
    )


class Pickled:
    def __reduce__(self):
        return exec, (CODE,)


def test_words_of_tokenizers_are_not_read_from_other_files(refused, good):
    import keras_hub  # noqa: F401  # its import takes memory of its own

    path = "/etc/hostname"
    tokenizer = {
        "class_name": "WhisperTokenizer",
        "module": "keras_hub.tokenizers",
        "registered_name": "keras_hub>WhisperTokenizer",
        "config": {"special_tokens": path},
    }
    refused(changed(good, lambda config: config.update(tokenizer)), "which would read special_tokens from")


def test_links_do_not_lead_out_of_a_folder(good, tmp_path):
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(good) as archive:
        archive.extractall(folder)
    distill.load_model(folder)
    (folder / "assets").mkdir()
    (folder / "assets" / "words.txt").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="a link that leads out of it"):
        distill.load_model(folder)


def test_constants_are_numbers(refused, good):
    constant = {"class_name": "__numpy__", "config": {"value": ["a"], "dtype": "U300000000"}}
    refused(
        changed(good, lambda config: config.update(extra=constant)), "Constants in a model must be numbers"
    )


def test_operations_are_not_run_on_constants(tmp_path):
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.ops.tile(inputs, (1, 2))))
    model.save(tmp_path / "m.keras")
    constant = {"class_name": "__tensor__", "config": {"value": [[1.0]], "dtype": "float32"}}

    def change(config):
        (tile,) = (layer for layer in config["config"]["layers"] if layer["class_name"] == "Tile")
        tile["inbound_nodes"][0]["args"] = [constant]
        tile["inbound_nodes"][0]["kwargs"] = {}

    bad = changed(tmp_path / "m.keras", change)
    with pytest.raises(ValueError, match="would compute with constants alone"):
        distill.load_model(bad)


def test_a_registered_name_does_not_make_a_lambda_safe(refused, good):
    code = {"class_name": "__lambda__", "registered_name": "distill>hard_sigmoid", "config": {"value": "xx"}}
    refused(changed(good, lambda config: config.update(extra=code)), "carries code")


def test_pickles_and_saved_models_are_not_opened(refused, tmp_path):
    (tmp_path / "model.h5").write_bytes(pickle.dumps(Pickled()))  # the content counts, not the name
    refused(tmp_path / "model.h5", "a pickle, which runs any code that its writer chose")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"evil")
    with pytest.raises(ValueError, match="A SavedModel is a TensorFlow program"):
        distill.load_model(tmp_path / "saved")


def test_arrays_of_objects_are_not_opened(refused, good, tmp_path):
    with zipfile.ZipFile(good) as old:
        content = io.BytesIO(old.read("model.weights.h5"))
        with h5py.File(content, "r+") as file:
            del file["layers/dense/vars/1"]
            file["layers/dense/vars/1"] = np.array([pickle.dumps(Pickled()) for _ in range(4)], "S200")
        with zipfile.ZipFile(tmp_path / "bad.keras", "w") as new:
            new.writestr("config.json", old.read("config.json"))
            new.writestr("model.weights.h5", content.getvalue())
    model = dense_net(4)
    before = model.get_weights()
    assert all(
        "Weights must be real numbers" in text
        for text in refused(tmp_path / "bad.keras", "Weights must be real numbers")
    )
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


# Other places


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "assets/../../out", "assets\\..\\out", "C:out"])
def test_members_of_an_archive_lie_inside_it(refused, good, tmp_path, name):
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), "evil")
    refused(good, "which leads elsewhere")
    assert not (tmp_path.parent / "out").exists()


@pytest.mark.parametrize("form", ["keras", "weights.h5", "h5"])
@pytest.mark.parametrize("how", ["external link", "soft link", "external data", "virtual data"])
def test_weights_lie_in_their_file(refused, tmp_path, form, how):
    model = dense_net(4)
    path = tmp_path / f"bad.{form}"
    (model.save_weights if form == "weights.h5" else model.save)(path)
    (tmp_path / "secret").write_bytes(b"0" * 96)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros((6, 4), "float32")
    content = io.BytesIO(path.read_bytes())
    if form == "keras":
        with zipfile.ZipFile(path) as archive:
            config, content = archive.read("config.json"), io.BytesIO(archive.read("model.weights.h5"))
    place = "model_weights/hidden/hidden/kernel" if form == "h5" else "layers/dense/vars/0"
    with h5py.File(content, "r+") as file:
        del file[place]
        if how == "external link":
            file[place] = h5py.ExternalLink("other.h5", "x")
        elif how == "soft link":
            file[place] = h5py.SoftLink("/layers")
        elif how == "external data":
            file.create_dataset(place, (6, 4), "float32", external=[("secret", 0, 96)])
        else:
            layout = h5py.VirtualLayout((6, 4), "float32")
            layout[:] = h5py.VirtualSource("other.h5", "x", (6, 4))
            file.create_virtual_dataset(place, layout)
    if form == "keras":
        with zipfile.ZipFile(path, "w") as new:
            new.writestr("config.json", config)
            new.writestr("model.weights.h5", content.getvalue())
    else:
        path.write_bytes(content.getvalue())
    texts = refused(path, "" if form == "weights.h5" else "which points elsewhere")
    assert "which points elsewhere" in texts[-1]


# Memory


def test_huge_shapes_are_not_made(refused, good, tmp_path):
    def change(config):
        config["config"]["layers"][2]["config"]["units"] = 10**11

    texts = refused(changed(good, change), "with 172 bytes, which declares 2,000,000,000,112")
    assert len(texts) == 2
    with keras.StatelessScope():
        pass  # at its end Keras makes all variables that are waiting: there must be none
    refused(
        in_h5(
            sequential({"class_name": "Dense", "config": {"name": "d", "units": 10**12}}),
            tmp_path / "huge.h5",
        ),
        "which declares 28,000,000,000,000",
    )


def test_an_archive_and_the_file_in_it_do_not_expand_by_turns(refused, tmp_path):
    """Padding that the archive compresses must not count for arrays that were never written."""
    units = 2**21
    dense = {"class_name": "Dense", "module": "keras.layers", "config": {"name": "d", "units": units}}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["padding"] = np.zeros(2**20, "uint8")
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", (6, units), "float32", chunks=True)
        group.create_dataset("1", (units,), "float32", chunks=True)
    with zipfile.ZipFile(tmp_path / "turns.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("random", np.random.default_rng(0).bytes(2**15))
        archive.writestr("config.json", json.dumps(sequential(dense)))
        archive.writestr("model.weights.h5", content.getvalue())
    assert len(content.getvalue()) > 2**20
    refused(tmp_path / "turns.keras", "which declares")


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_what_is_declared_must_be_held(refused, tmp_path, form):
    units = 10**8
    dense = {"class_name": "Dense", "module": "keras.layers", "config": {"name": "d", "units": units}}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("layers/dense/vars" if form == "keras" else "model_weights/d")
        for key, shape in (("0", (6, units)), ("1", (units,))):
            group.create_dataset(key, shape, "float32", chunks=True, compression="gzip")
        if form == "h5":
            file.attrs["model_config"] = json.dumps(sequential(dense))
            file["model_weights"].attrs["layer_names"] = np.array([b"d"])
            group.attrs["weight_names"] = np.array([b"0", b"1"])
    path = tmp_path / f"bomb.{form}"
    path.write_bytes(content.getvalue())
    if form == "keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(sequential(dense)))
            archive.writestr("model.weights.h5", content.getvalue())
    texts = refused(path, "which declares 2,800,000,000")
    assert "which declares" in texts[1]


def test_an_array_is_listed_once(refused, tmp_path):
    names = [f"d{i}" for i in range(40)]
    dense = [
        {
            "class_name": "Dense",
            "module": "keras.layers",
            "config": {"name": name, "units": 6, "use_bias": False},
        }
        for name in names
    ]
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(sequential(*dense))
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = np.array([name.encode() for name in names])
        first = group.create_group("d0")
        first["kernel"] = np.zeros((6, 6), "float32")
        first.attrs["weight_names"] = np.array([b"kernel"])
        for name in names[1:]:
            group[name] = first
    refused(tmp_path / "linked.h5", "'/model_weights/d1/kernel' is '/model_weights/d0/kernel' too")


def layer(kind, module="keras.layers", **config):
    return {"class_name": kind, "module": module, "config": {"name": "made", **config}}


def on(shape, *listed, dtype="float32"):
    """A model of layers on inputs of this shape, the size of the batch included."""
    model = sequential(*listed)
    model["config"]["layers"][0]["config"].update(batch_shape=shape, dtype=dtype)
    return model


def operation(kind, shape, **config):
    """A model of one operation on inputs of this shape."""
    tensor = {"shape": shape, "dtype": "float32", "keras_history": ["x", 0, 0]}
    call = {"args": [{"class_name": "__keras_tensor__", "config": tensor}], "kwargs": {}}
    listed = [
        {**layer("InputLayer", batch_shape=shape), "name": "x", "inbound_nodes": []},
        {**layer(kind.__name__, kind.__module__, **config), "name": "made", "inbound_nodes": [call]},
    ]
    ends = {"input_layers": [["x", 0, 0]], "output_layers": [["made", 0, 0]]}
    return {
        "class_name": "Functional",
        "module": Functional.__module__,
        "config": {"name": "f", "layers": listed, **ends},
    }


MANY = 10**8  # numbers; a few times as many still fit into the limit, so that taking them shows
SCALAR = layer("Normalization", mean=0.0, variance=1.0)
INT4 = {
    "class_name": "Int4DTypePolicy",
    "module": "keras.dtype_policies",
    "config": {"mode": "int4/128", "source_name": "float32"},
}
WORDS = {"vocabulary": ["a"], "mask_token": None, "oov_token": "[UNK]"}
IDF = {"output_mode": "tf_idf", "idf_weights": [1.0], "pad_to_max_tokens": True}
# What takes memory for sizes in the config when it is made, built or planned.
COMPUTED = {
    "mean of a Normalization": on([None, MANY], SCALAR),
    "mean of a Normalization, a list": on([None, MANY], layer("Normalization", mean=[0.0], variance=[1.0])),
    "mean over the batch": on([MANY, 1], layer("Normalization", axis=0, mean=0.0, variance=1.0)),
    "mean in a wrapper": on([None, 2, MANY], layer("TimeDistributed", layer=SCALAR)),
    "mean in a model": on([None, MANY], on([None, MANY], SCALAR)),
    "LoRA of a Dense": on([None, 16_000], layer("Dense", units=16_000, lora_rank=4)),
    "LoRA of an Embedding": on(
        [None, 4], layer("Embedding", input_dim=16_000, output_dim=16_000, lora_rank=4)
    ),
    "LoRA of a Conv1D": on([None, 4, 9_000], layer("Conv1D", filters=9_000, kernel_size=3, lora_rank=4)),
    "LSTM": on([10**9, 2, 3], layer("LSTM", units=1, stateful=True)),
    "LSTM, smaller": on([MANY, 2, 1], layer("LSTM", units=1, stateful=True)),
    "Bidirectional": on(
        [MANY, 2, 1], layer("Bidirectional", layer=layer("GRU", units=1, stateful=True, use_bias=False))
    ),
    "ConvLSTM2D": on([1, 2, 10_000, 10_000, 1], layer("ConvLSTM2D", filters=1, kernel_size=1, stateful=True)),
    "RNN of cells": on(
        [MANY, 2, 1], layer("RNN", stateful=True, cell=[layer("SimpleRNNCell", units=1, use_bias=False)])
    ),
    "SimpleRNN in a model": on(
        [None, 2, 1], on([MANY, 2, 1], layer("SimpleRNN", units=1, stateful=True, use_bias=False))
    ),
}
if hasattr(keras.dtype_policies, "Int4DTypePolicy"):
    COMPUTED |= {
        "groups of a Dense": on([None, MANY], layer("Dense", units=1, dtype=INT4)),
        "groups of an EinsumDense": on(
            [None, MANY], layer("EinsumDense", equation="ab,bc->ac", output_shape=[1], dtype=INT4)
        ),
        "groups of an Embedding": on(
            [None, 1], layer("Embedding", input_dim=1, output_dim=MANY, dtype=INT4), dtype="int32"
        ),
        "groups of a ReversibleEmbedding": on(
            [None, 1], layer("ReversibleEmbedding", input_dim=1, output_dim=MANY, dtype=INT4), dtype="int32"
        ),
    }
PARTS = {
    "Split": operation(numpy_ops.Split, [None, 10**6], indices_or_sections=10**6, axis=1),
    "ArraySplit": operation(numpy_ops.ArraySplit, [None, 10**6], indices_or_sections=10**6, axis=1),
    "Unstack": operation(core.Unstack, [None, 10**6], axis=1),
    "Unstack, into a number": operation(core.Unstack, [None, None], axis=1, num=10**6),
}
NUMBERED = {
    "unknown words": layer("StringLookup", num_oov_indices=2**24, **WORDS),
    "unknown numbers": layer("IntegerLookup", num_oov_indices=2**24, vocabulary=[1]),
    "frequencies": layer("StringLookup", max_tokens=MANY, **WORDS, **IDF),
    "n-grams": layer("TextVectorization", ngrams=2 * 10**7),
}
HUGE = {
    **{case: (config, "would take it to") for case, config in COMPUTED.items()},
    **{case: (config, "return at most 65,536 tensors") for case, config in PARTS.items()},
    **{
        case: (on([None, 1], config, dtype="string"), "A lookup layer may have at most 1,048,576")
        for case, config in NUMBERED.items()
    },
}


@pytest.mark.parametrize("case", HUGE)
def test_what_keras_computes_as_it_builds_is_refused_before(limited, good, case):
    config, match = HUGE[case]
    there = limited(changed(good, lambda old: (old.clear(), old.update(config))))
    assert there["peak"] < MOST_MEMORY
    assert match in there["errors"][0]
    assert str(good.with_name("bad.keras")) in there["errors"][0]


def test_layers_are_counted(good, monkeypatch):
    monkeypatch.setattr(_guards, "MOST_LAYERS", 3)
    with pytest.raises(ValueError, match=r"at most 3 layers and operations.*good\.keras with more"):
        distill.load_model(good)
    monkeypatch.setattr(_guards, "MOST_LAYERS", 4)
    distill.load_model(good)


@only_on("tensorflow", reason="other backends have no graphs")
def test_loops_of_layers_that_are_tried_out_are_counted(good, monkeypatch):
    loop = on([None, 300, 1], layer("Pipeline", layers=[layer("LSTM", units=1, unroll=True)]))
    bad = changed(good, lambda config: (config.clear(), config.update(loop)))
    monkeypatch.setattr(_guards, "MOST_TRIED", 2_000)
    with pytest.raises(ValueError, match=r"at most 2,000 operations.*bad\.keras with more"):
        distill.load_model(bad)
    monkeypatch.setattr(_guards, "MOST_TRIED", 299)  # a number of results counts before they are made
    with pytest.raises(ValueError, match=r"at most 299 operations.*bad\.keras with more"):
        distill.load_model(bad)


@keras.saving.register_keras_serializable("hostile")
class NeedsValues(keras.Model):
    """A class that cannot be planned, because it makes a variable of a value."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.offset = units, keras.Variable(np.zeros(1, "float32"))
        self.dense = keras.layers.Dense(units)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x):
        return self.dense(x) + self.offset

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_variables_of_the_callers_classes_are_counted(good):
    model = NeedsValues(2)
    model(np.zeros((1, 3)))
    model.save(good)
    assert type(distill.load_model(good)) is NeedsValues
    bad = changed(good, lambda config: config["config"].update(units=10**7))
    with pytest.raises(ValueError, match=r"bad\.keras with 36 bytes of weights, where 'kernel'"):
        distill.load_model(bad)


def test_keras_is_as_before(good):
    watched = {kind: dict(vars(kind)) for kind in (keras.KerasTensor, keras.Operation, keras.Variable)}
    distill.load_model(good)
    bad = changed(good, lambda old: (old.clear(), old.update(COMPUTED["mean of a Normalization"])))
    with pytest.raises(ValueError, match="would take it to"):
        distill.load_model(bad)
    assert watched == {kind: dict(vars(kind)) for kind in watched}


@pytest.mark.parametrize(
    "make",
    [
        lambda: [
            keras.Input((3,)),
            keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=0.5 * np.ones(3)),
        ],
        lambda: [keras.Input(batch_shape=(2, 4, 3)), keras.layers.LSTM(2, stateful=True)],
        lambda: [keras.Input((3,)), keras.layers.Dense(4, lora_rank=2)],
        lambda: [keras.Input((256,)), keras.layers.Dense(4)],
        lambda: [keras.Input((3,)), *[keras.layers.Activation("tanh") for _ in range(30)]],
    ],
    ids=["Normalization", "stateful", "LoRA", "quantized", "many layers"],
)
def test_honest_models_load_with_keras_own_classes(good, make, request):
    model = keras.Sequential(make())
    if "quantized" in request.node.name:
        model.layers[-1].quantize("int4")
    model.save(good)
    loaded = distill.load_model(good)
    assert [type(one) for one in loaded.layers] == [type(one) for one in model.layers]
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("text", ["[" + "{}," * 1_500_000 + "{}]", '"' + 5_000_000 * "a" + '"'])
def test_text_that_an_archive_hides_is_not_unpacked(limited, good, text):
    """As JSON it would take up to forty times its bytes."""
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(good.with_name("bad.keras"), "w", 8) as new:
        new.writestr("pad", np.random.default_rng(0).bytes(60_000), 0)
        new.writestr("config.json", f'{{"class_name": "Sequential", "config": {{}}, "more": {text}}}')
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    there = limited(good.with_name("bad.keras"))
    assert there["peak"] < MOST_MEMORY
    assert all("must be stored in an archive as they are" in error for error in there["errors"])


def test_an_archive_that_unpacks_to_more_than_it_holds(refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 30_000_000)
        archive.writestr("model.weights.h5", b"")
    refused(tmp_path / "bomb.keras", "which declares 30,000,000")


def test_deep_nesting_ends(refused, tmp_path):
    (tmp_path / "deep.json").write_text('{"a":' * 50_000 + "1" + "}" * 50_000)
    refused(tmp_path / "deep.json", "not valid JSON")
    config = layer = {}
    for _ in range(300):
        layer["config"] = {}
        layer["class_name"], layer = "Dense", layer["config"]
    refused(in_h5(sequential(config), tmp_path / "deep.h5"), "deep.h5")


# Damage


@pytest.mark.parametrize("form", ["keras", "weights.h5", "h5"])
def test_truncated_files_say_so(refused, tmp_path, form):
    model = dense_net(4)
    path = tmp_path / f"cut.{form}"
    (model.save_weights if form == "weights.h5" else model.save)(path)
    whole = path.read_bytes()
    for share in (0.02, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        assert all("truncated" in text for text in refused(path, "truncated"))


@pytest.mark.parametrize("form", ["keras", "weights.h5", "h5"])
@pytest.mark.sweep(1)
def test_flipped_bytes_give_an_error_or_a_model(tmp_path, form):
    saved = dense_net(4)
    path = tmp_path / f"flipped.{form}"
    (saved.save_weights if form == "weights.h5" else saved.save)(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        model = dense_net(4)
        before = model.get_weights()
        try:
            distill.load_weights(model, path)
        except ValueError:
            assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    path.write_bytes(whole)
    distill.load_weights(model, path)


def test_what_is_no_model(refused, tmp_path):
    (tmp_path / "empty.keras").touch()
    refused(tmp_path / "empty.keras", "which is empty")
    (tmp_path / "random.h5").write_bytes(np.random.default_rng(0).bytes(1000))
    refused(tmp_path / "random.h5", "which begins with b'")
    (tmp_path / "begin.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + np.random.default_rng(0).bytes(1000))
    refused(tmp_path / "begin.h5", "cannot be read")
    (tmp_path / "list.json").write_text('{"class_name": 1')
    refused(tmp_path / "list.json", "not valid JSON")
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(ValueError, match="The folder of a model must be a SavedModel, a preset"):
        distill.load_model(tmp_path / "folder.keras")
    with pytest.raises(IsADirectoryError):
        distill.load_weights(dense_net(4), tmp_path / "folder.keras")
    with pytest.raises(FileNotFoundError):
        distill.load_model(tmp_path / "none.keras")


def test_no_permission(good):
    good.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root can read everything
    try:
        with pytest.raises(PermissionError):
            distill.load_model(good)
    finally:
        os.seteuid(user)


NONSENSE = [
    {},
    {"class_name": "Sequential"},
    {"class_name": "Sequential", "config": 3},
    {"class_name": "Sequential", "config": {"layers": 3}},
    {"class_name": "Sequential", "config": {"layers": []}},
    {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": None}]}},
    {"class_name": "Functional", "config": {"layers": [{}], "input_layers": [], "output_layers": []}},
    {"class_name": "Functional", "config": {"name": "f", "layers": [], "input_layers": [], "output_layers": []}},
    {"class_name": "Dense", "config": {"units": 3}},
    {"class_name": "Sequential", "config": [{"class_name": "Dense", "config": {"units": -3}}]},
    {"class_name": "Sequential", "config": [{"class_name": ["Dense"], "config": {"units": 3}}]},
]  # fmt: skip


@pytest.mark.parametrize("version", ["2.4.0", "3.15.1"])
@pytest.mark.parametrize("config", NONSENSE)
def test_architectures_that_make_no_sense(refused, tmp_path, config, version):
    refused(in_h5(config, tmp_path / "nonsense.h5", version), "nonsense.h5")


def test_files_of_hdf5_that_lack_what_they_list(refused, tmp_path):
    path = in_h5(sequential({"class_name": "Dense", "config": {"units": 3}}), tmp_path / "lacking.h5")
    with h5py.File(path, "r+") as file:
        file["model_weights"].attrs["layer_names"] = np.array([b"d"])
    refused(path, "does not contain what it lists")


@only_on("tensorflow", reason="a SavedModel is TensorFlow's")
def test_a_damaged_saved_model(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"evil")
    with pytest.raises(ValueError, match="holds no SavedModel, or a damaged one"):
        distill.load_model(tmp_path / "saved", trust=True)


def test_a_hostile_preset(limited, tmp_path):
    import keras_hub

    keras_hub.models.BertBackbone(20, 1, 2, 4, 6, max_sequence_length=8).save_to_preset(tmp_path / "p")
    config = json.loads((tmp_path / "p" / "config.json").read_text())

    def attempt(match):
        assert limited(tmp_path / "p")["peak"] < MOST_MEMORY
        with pytest.raises(ValueError, match=match):
            distill.load_model(tmp_path / "p")

    huge = {**config, "config": {**config["config"], "vocabulary_size": 10**11}}
    (tmp_path / "p" / "config.json").write_text(json.dumps(huge))
    attempt("token_embedding +embeddings +\\(100000000000, 4\\) +\\(20, 4\\)")
    (tmp_path / "p" / "config.json").write_text(json.dumps(config))
    (tmp_path / "p" / "task.json").write_text(json.dumps(sequential(lambda_layer())))
    attempt("with a __lambda__|with a Lambda")
    (tmp_path / "p" / "task.json").unlink()
    distill.load_model(tmp_path / "p")


def uninitialized():
    return global_state.get_global_attribute("uninitialized_variables", [])


def test_a_task_that_declares_more_than_its_file_holds(refused, tmp_path, monkeypatch):
    import keras_hub

    backbone = keras_hub.models.BertBackbone(20, 1, 2, 4, 6, max_sequence_length=8)
    keras_hub.models.BertTextClassifier(backbone, num_classes=2).save(tmp_path / "good.keras")

    def change(config):
        config["config"]["backbone"]["config"]["vocabulary_size"] = 10**11

    match = "where BertTextClassifier has 400,000,0"
    refused(changed(tmp_path / "good.keras", change), match)
    waiting = []
    monkeypatch.setattr(_loading, "allocate", lambda: waiting.extend(uninitialized()))
    assert distill.load_model(tmp_path / "good.keras").count_params() > 0
    assert not waiting  # variables of an earlier plan are not made as well


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Skipping nested")  # Keras warns of what it skips before it fails
def test_the_head_of_a_preset_is_held_too(limited, tmp_path, monkeypatch):
    import keras_hub

    backbone = keras_hub.models.BertBackbone(20, 1, 2, 4, 6, max_sequence_length=8)
    task = keras_hub.models.BertTextClassifier(backbone, num_classes=2, preprocessor=None)
    task.save_to_preset(tmp_path / "bert_tiny_en_uncased")

    def downloaded(*args, **kwargs):
        raise AssertionError("it asked the network")

    # A folder in the working directory is not one of keras_hub's own presets, whatever its name.
    monkeypatch.setattr("kagglehub.model_download", downloaded)
    assert distill.load_model("bert_tiny_en_uncased").count_params() == task.count_params()
    path = tmp_path / "bert_tiny_en_uncased" / "task.json"
    config = json.loads(path.read_text())
    config["config"]["num_classes"] = 10**11
    path.write_text(json.dumps(config))
    assert limited(tmp_path / "bert_tiny_en_uncased")["peak"] < MOST_MEMORY
    with pytest.raises(ValueError, match="where BertTextClassifier has 500,000,0"):
        distill.load_model(tmp_path / "bert_tiny_en_uncased")
    config["config"]["num_classes"] = 1
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot load this preset"):
        distill.load_model(tmp_path / "bert_tiny_en_uncased")
