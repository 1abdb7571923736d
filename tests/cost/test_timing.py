"""Times of models that take turns, in LiteRT and as a tf.function."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

from distill import cost
from distill.cost import _timing as timing


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def small():
    return sequential((3,), layers.Dense(2))


def test_latency_summarises_its_runs():
    times = [3.0, 1.0, 2.0, 5.0, 4.0]
    assert timing._summary(times) == cost.Latency(median_ms=3.0, low_ms=2.0, high_ms=4.0, runs=5)
    measured = cost.latency(small(), runs=7)
    assert measured.runs == 7
    assert 0 < measured.low_ms <= measured.median_ms <= measured.high_ms


def test_latencies_take_turns(monkeypatch):
    called = []

    class Recorder:
        def prepare(self, model):
            return lambda: called.append(model)

    clock = iter(range(100))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock) / 4)
    result = cost.latencies({"a": "A", "b": "B"}, Recorder(), runs=20)
    rounds = [tuple(called[i : i + 2]) for i in range(0, len(called), 2)]
    assert len(rounds) == 3 + 20
    assert set(rounds) == {("A", "B"), ("B", "A")}  # neither always pays for what the other leaves behind
    assert list(result) == ["a", "b"]
    assert result["b"] == cost.Latency(250.0, 250.0, 250.0, runs=20)


def tokens_and_images():
    tokens = keras.Input((50,), dtype="int32")
    images = keras.Input((4, 4, 1))
    embedded = layers.Flatten()(layers.Embedding(10, 2)(tokens))
    return keras.Model([tokens, images], layers.Concatenate()([embedded, layers.Flatten()(images)]))


def test_litert_runs_the_model_itself():
    """Integer inputs, several inputs, batches: the LiteRT form answers as the model does."""
    model = tokens_and_images()
    interpreter = cost.LiteRT(threads=2, batch_size=3).prepare(model).__self__
    interpreter.invoke()
    (output,) = interpreter.get_output_details()
    given = [interpreter.get_tensor(details["index"]) for details in interpreter.get_input_details()]
    ordered = sorted(given, key=lambda x: x.ndim)
    assert [x.shape for x in ordered] == [(3, 50), (3, 4, 4, 1)]
    assert not ordered[0].any()
    assert 0.5 < ordered[1].std() < 2
    expected = keras.ops.convert_to_numpy(model(ordered))
    np.testing.assert_allclose(interpreter.get_tensor(output["index"]), expected, rtol=1e-6)


def test_litert_is_given_its_threads(monkeypatch):
    from ai_edge_litert import interpreter

    seen = []
    real = interpreter.Interpreter
    monkeypatch.setattr(
        interpreter, "Interpreter", lambda **options: seen.append(options["num_threads"]) or real(**options)
    )
    cost.latency(small(), cost.LiteRT(threads=3), runs=1)
    assert seen[-1] == 3  # the one before it checked the file


TRACED = []  # not in the model, whose attributes are put back


class Watching(keras.Model):
    def __init__(self):
        super().__init__(name="watching")
        self.dense = layers.Dense(2)

    def call(self, inputs, training=None):
        TRACED.append((type(inputs).__name__, tuple(inputs.shape), training))
        return self.dense(inputs)


def test_a_tf_function_runs_the_model_in_inference_and_compiles_it_once():
    model = Watching()
    model(np.zeros((1, 3), "float32"))
    TRACED.clear()
    measured = cost.latency(model, cost.TFFunction(batch_size=5), runs=4)
    assert measured.runs == 4
    assert TRACED == [("SymbolicTensor", (5, 3), False)]
    for each in (tokens_and_images(), small()):
        assert cost.latency(each, cost.TFFunction(jit_compile=True), runs=1).median_ms > 0
    runtimes = (
        cost.LiteRT(),
        cost.LiteRT(threads=2, batch_size=8),
        cost.TFFunction(batch_size=4, jit_compile=True),
    )
    assert [str(runtime) for runtime in runtimes] == [
        "LiteRT, 1 thread, batch of 1",
        "LiteRT, 2 threads, batch of 8",
        "tf.function with XLA, batch of 4",
    ]


@pytest.mark.parametrize("wrong", [True, "litert", cost.LiteRT(), [True], [cost.LiteRT], None])
def test_what_is_no_list_of_runtimes_is_refused(wrong):
    with pytest.raises(TypeError, match=r"latency .*such as .*cost.LiteRT\(\).* Received"):
        cost.profile(small(), latency=wrong)
    if not isinstance(wrong, cost.LiteRT):
        with pytest.raises(TypeError, match="runtime names runtimes"):
            cost.latency(small(), wrong)


def test_latency_refuses_what_it_cannot_time(monkeypatch):
    with pytest.raises(ValueError, match=r"runs must be at least 1, and 100 .* Received: runs=0"):
        cost.latency(small(), runs=0)
    for runtime in (cost.LiteRT(), cost.TFFunction()):
        with pytest.raises(ValueError, match=r"sizes must be known"):
            cost.latency(sequential((None, 3), layers.Dense(2)), runtime)
    for wrong in ({"threads": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=r"must be at least 1\. Received: .*=0"):
            cost.LiteRT(**wrong)
    with pytest.raises(ValueError, match="Received: batch_size=-1"):
        cost.TFFunction(batch_size=-1)
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(
            ValueError, match=r"TensorFlow backend\. Received: .*, on jax\. Time it with LiteRT"
        ):
            cost.latency(small(), cost.TFFunction())
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r'pip install "distill\[litert\]"'):
        cost.latency(small())


@pytest.mark.slow
def test_a_model_with_a_batch_size_of_its_own_is_timed_with_it(capfd):
    inputs = keras.Input((5, 4), batch_size=2)
    model = keras.Model(inputs, layers.LSTM(3)(inputs), name="looping")
    with pytest.raises(ValueError, match=r"'looping', which takes 2 examples, and batch_size=1\. Pass"):
        cost.latency(model, cost.LiteRT(), runs=1)
    assert cost.latency(model, cost.LiteRT(batch_size=2), runs=1).median_ms > 0
    assert capfd.readouterr() == ("", "")
