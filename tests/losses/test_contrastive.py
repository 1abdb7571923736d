"""Contrastive representation distillation: the float64 oracle on drawn rows, its memory, and training with ids."""

import inspect
import json

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, as_numpy, as_tensor, only_on, value_and_gradients
from conftest import dense_net
from loss_oracles import CLASSES as LABELS
from loss_oracles import embedded, remembered
from mutants import mutate

from distill import Distiller, SoftTargets
from distill.losses import ContrastiveRepresentation
from distill.losses import _contrastive as contrastive
from distill.training import Identified

IDS = np.array([6, 1, 9, 4], "int32")
SMALL = {"negatives": 5, "width": 4}


def features(count=4, widths=(5, 3), seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(count, width)).astype("float32") for width in widths)


def made(**kwargs):
    """A built loss whose drawn rows are known."""
    loss = ContrastiveRepresentation(LABELS, **{**SMALL, **kwargs})
    loss.ensure_built(*map(as_tensor, features()))
    drawn = np.random.default_rng(5).integers(0, len(LABELS), (len(IDS), loss._draw(IDS).shape[1]))
    loss._draw = lambda ids: as_tensor(drawn.astype("int32"))
    return loss


def expected(loss, teacher, student, constants=None, tau=0.07):
    """The oracle's values of a step, its constants, and both memories after it."""
    embeddings = embedded(loss, teacher, student)
    banks, places = remembered(loss, IDS)
    of_teacher, of_student = (bank[places] for bank in banks)
    n = len(LABELS)
    if constants is None:
        constants = (
            reference.crd_constant(embeddings[1], of_teacher, n, tau),
            reference.crd_constant(embeddings[0], of_student, n, tau),
        )
    values = reference.crd(*embeddings, of_teacher, of_student, *constants, n, tau)
    for bank, z in zip(banks, embeddings, strict=True):
        bank[places[:, 0]] = reference.crd_update(bank[places[:, 0]], z)
    return values, constants, banks


def assert_close(actual, wanted, rtol=1e-5):
    np.testing.assert_allclose(as_numpy(actual), wanted, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("kwargs", [{}, {"negatives": 100}, {"width": 7}, {"temperature": 0.5}], ids=str)
def test_values_constants_and_memories_follow_the_definition(kwargs):
    loss = made(**kwargs)
    tau = kwargs.get("temperature", 0.07)
    constants = None
    for seed in range(3):
        teacher, student = features(seed=seed)
        values, constants, banks = expected(loss, teacher, student, constants, tau)
        assert_close(loss.call(as_tensor(teacher), as_tensor(student), as_tensor(IDS)), values)
        # The constants of the first step stay.
        assert_close(loss._memory.student_scale, constants[0])
        assert_close(loss._memory.teacher_scale, constants[1])
        assert_close(loss._memory.teacher, banks[0])
        assert_close(loss._memory.student, banks[1])


def test_what_is_trained_gets_a_gradient_and_what_remembers_does_not():
    loss = made()
    teacher, student = features()
    trained = [*loss._embed_teacher.weights, *loss._embed_student.weights]
    assert [v.path for layer in loss.layers for v in layer.trainable_variables] == [v.path for v in trained]
    _, gradients = value_and_gradients(lambda t, s: loss(t, s, ids=IDS), teacher, student, variables=trained)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients[2:])


def test_negatives_are_of_other_classes_and_all_of_them_equally_often():
    loss = ContrastiveRepresentation(LABELS, negatives=10)
    loss.ensure_built(*map(as_tensor, features()))
    by_row = np.sort(LABELS)  # the class of each row
    counts = np.zeros((len(IDS), len(LABELS)))
    steps = 150
    for _ in range(steps):
        drawn = as_numpy(loss._draw(as_tensor(IDS)))
        assert drawn.shape == (4, 10)
        np.add.at(counts, (np.arange(4)[:, None], drawn), 1)
    for own, row in zip(LABELS[IDS], counts, strict=True):
        others = by_row != own
        assert not row[~others].any()
        each = steps * 10 / others.sum()
        assert np.abs(row[others] - each).max() < 5 * np.sqrt(each)


def test_each_example_its_own_class_has_all_others_for_negatives():
    loss = ContrastiveRepresentation(np.arange(6), negatives=6)
    loss.ensure_built(*map(as_tensor, features()))
    drawn = np.concatenate(
        [as_numpy(loss._draw(as_tensor(np.arange(6, dtype="int32")))) for _ in range(50)], 1
    )
    assert [sorted(set(row)) for row in drawn] == [[j for j in range(6) if j != i] for i in range(6)]


MUTANTS = {
    "another floor": ("1e-7 / noise", "1e-4 / noise"),
    "the floor at another place": ("1.0 + 1e-7 / noise", "1.0 + 1e-4"),
    "Z without n": ("ops.mean(exponentials)) * examples", "ops.mean(exponentials))"),
    "Z anew each step": ("ops.where(z > 0, z, ", "ops.where(z > 1e30, z, "),
    "Z as a sum": ("ops.mean(exponentials)) * examples", "ops.sum(exponentials)) * examples"),
    "noise of n − 1": ("1) / examples", "1) / (examples - 1)"),
    "K with the positive": ("rows.shape[1] - 1", "rows.shape[1]"),
    "the mean of the negatives": ("ops.sum(shares, axis=-1)", "ops.mean(shares, axis=-1)"),
    "without the positive's share": ("ops.sum(shares, axis=-1)", "ops.sum(shares[:, 1:], axis=-1)"),
    "no temperature": ("anchors / self._temperature", "anchors"),
    "the memory as it came": ("_write(bank, own, _unit(mixed))", "_write(bank, own, mixed)"),
    "momentum on the other side": (
        "self._momentum * old + (1.0 - self._momentum)",
        "(0.2 + self._momentum) * old + (0.8 - self._momentum)",
    ),
    "its own memory": ("of_student, memory.teacher, rows", "of_student, memory.student, rows"),
    "one anchor": ("value += self._contrast", "self._contrast"),
    "not of length 1": ("_unit(self._embed_student(flat(student)))", "self._embed_student(flat(student))"),
    "memory of the other side": ("memory.teacher, of_teacher)", "memory.teacher, of_student)"),
}


@only_on("tensorflow", reason="mutants are of the formula, which is the same everywhere")
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_oracle_catches_mutants(mutant, monkeypatch):
    old, new = MUTANTS[mutant]
    of_call = old in inspect.getsource(ContrastiveRepresentation.call)
    mutate(
        monkeypatch, contrastive, f"ContrastiveRepresentation.{'call' if of_call else '_contrast'}", old, new
    )
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_values_constants_and_memories_follow_the_definition({})


@pytest.mark.slow
def test_a_student_trains_with_ids_and_its_state_goes_on(teacher, batch, tmp_path):
    """Two epochs in one go, or with a stop between: the same weights, memory and draws."""
    x, y = batch
    ids = np.arange(40)
    y_of = y.astype("int64")

    def distiller():
        keras.utils.set_random_seed(1)
        loss = ContrastiveRepresentation(y_of, "hidden", "hidden", negatives=16, width=8)
        made = Distiller(teacher, dense_net(4), loss, **loss.recipe)
        jit = BACKEND == "jax"  # XLA takes seconds for each; the next test uses it
        made.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", jit_compile=jit)
        return made

    whole, first, second = distiller(), distiller(), distiller()
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    history = whole.fit(Identified(x, ids), y, epochs=2, **options).history["contrastive_representation"]
    first.fit(Identified(x, ids), y, epochs=1, **options)
    first.save_weights(tmp_path / "half.weights.h5")
    second.optimizer.build(second.trainable_variables)
    second.load_weights(tmp_path / "half.weights.h5")
    second.fit(Identified(x, ids), y, epochs=1, **options)
    for wanted, found in zip(whole.variables, second.variables, strict=True):
        if "tracker" not in wanted.path and "mean" not in wanted.path:
            np.testing.assert_allclose(as_numpy(found), as_numpy(wanted), rtol=1e-5, atol=1e-6)
    assert not any("memory" in weight.path for weight in whole.student.weights)
    history += whole.fit(Identified(x, ids), y, epochs=10, **options).history["contrastive_representation"]
    assert np.mean(history[-3:]) < np.mean(history[:3])


@pytest.mark.slow
def test_ids_reach_a_data_set_and_no_model(teacher, student, batch):
    x, y = batch
    loss = ContrastiveRepresentation(y, "hidden", "hidden", **SMALL)
    distiller = Distiller(teacher, student, [SoftTargets(2.0), loss])
    distiller.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    arrays = Identified(x, np.arange(40))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        data = tf.data.Dataset.from_tensor_slices((arrays, y)).batch(16)
        logs = distiller.fit(data, validation_data=data, shuffle=False, verbose=0).history
    else:
        logs = distiller.fit(arrays, y, validation_data=(arrays, y), verbose=0).history
    assert {"soft_targets", "contrastive_representation", "val_accuracy"} <= set(logs)
    np.testing.assert_array_equal(distiller.predict(arrays, verbose=0), student.predict(x, verbose=0))
    np.testing.assert_allclose(
        distiller.evaluate(arrays, y, verbose=0), distiller.evaluate(x, y, verbose=0), rtol=1e-6
    )


def test_the_examples_that_ids_name_are_remembered(teacher, student, batch):
    x, y = batch
    ids = np.array([30, 2, 11, 7])
    loss = ContrastiveRepresentation(y, **SMALL)
    distiller = Distiller(teacher, student, [SoftTargets(2.0), loss])
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    banks = loss._memory.teacher, loss._memory.student
    before = [as_numpy(bank) for bank in banks]
    distiller.train_on_batch(Identified(x[:4], ids), y[:4])
    rows = np.argsort(np.argsort(y, kind="stable"))[ids]
    for bank, old in zip(banks, before, strict=True):
        assert sorted(np.flatnonzero(np.any(as_numpy(bank) != old, axis=1))) == sorted(rows)


def test_ids_are_needed_and_must_be_numbers_of_examples(teacher, student, batch):
    x, y = batch
    distiller = Distiller(teacher, student, ContrastiveRepresentation(y, **SMALL), student_loss_weight=0)
    distiller.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match=r"Received: inputs without ids\. Train on distill\.Identified"):
        distiller.train_on_batch(x)
    with pytest.raises(ValueError, match=r"integers \(batch,\)\. Received: float32 of shape \(40,\)"):
        distiller.train_on_batch(Identified(x, np.arange(40, dtype="float32")))
    with pytest.raises(ValueError, match=r"Received: int\d+ of shape \(40, 1\)"):
        distiller.train_on_batch(Identified(x, np.arange(40)[:, None]))


@pytest.mark.parametrize("wrong", [-1, 10])
def test_an_example_without_a_label_makes_the_loss_nan(wrong):
    loss = made()
    values = loss.call(*map(as_tensor, features()), as_tensor(np.array([0, wrong, 1, 2], "int32")))
    assert np.isnan(as_numpy(values)).tolist() == [False, True, False, False]


def test_one_memory_serves_one_teacher(teacher, student, batch):
    loss = ContrastiveRepresentation(batch[1], **SMALL)
    with pytest.raises(ValueError, match="one memory.*Received: 2 teachers, 1 replica"):
        Distiller([teacher, dense_net(8)], student, loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [[0, 1]]}, r"Received: int64 of shape \(1, 2\)\."),
        ({"labels": [0.0, 1.0]}, "Received: float64"),
        ({"labels": [3, 3]}, r"shape \(2,\), all of one class"),
        ({"negatives": 0}, "negatives must be a whole number >= 1. Received: negatives=0"),
        ({"width": 2.5}, "width must be a whole number >= 1. Received: width=2.5"),
        ({"temperature": 0.0}, r"temperature must be .*Received: temperature=0\.0"),
        ({"temperature": -1.0}, "temperature"),
        ({"momentum": 1.5}, "momentum"),
        ({"student_layer_name": ("a", "b")}, "one layer of each side"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContrastiveRepresentation(**{"labels": LABELS, **arguments})


def test_config_holds_every_argument():
    loss = ContrastiveRepresentation(
        LABELS, "a", "b", negatives=7, temperature=0.1, momentum=0.9, width=16, name="mine"
    )
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == loss.get_config()
    assert [config["config"][key] for key in ("negatives", "temperature", "momentum", "width")] == [
        7,
        0.1,
        0.9,
        16,
    ]


def test_embeddings_of_zero_have_finite_values_and_gradients():
    for scale in (0.0, 1e-30):
        loss = made()
        sides = [scale * x for x in features()]
        value, (_, gradient) = value_and_gradients(lambda t, s, loss=loss: loss(t, s, ids=IDS), *sides)
        assert np.isfinite(value)
        assert gradient is None or np.isfinite(gradient).all()  # JAX gives None for zeros
