"""A loss object that is given to one Distiller after another starts anew for each."""

import keras
import numpy as np
import pytest
from backend import as_numpy
from conftest import dense_net
from distilling import CE
from keras import layers

from distill import Distiller, Hint, MutualLearning, SoftTargets
from distill.losses import (
    ContrastiveRepresentation,
    CurriculumTemperature,
    DistillationLoss,
    LogitMSE,
    OverhaulDistillation,
    Standardized,
    VariationalInformation,
)
from distill.training import Identified

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype("float32")
Y = RNG.integers(0, 3, 16)
IDS = np.arange(16)
HIDDEN = ("hidden", "hidden")


def dense(units, **options):
    return layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed=3), **options)


def built_projector():
    projector = layers.Dense(16)
    projector.build((None, 4))
    projector.set_weights([np.linspace(-1, 1, 64).reshape(4, 16), np.ones(16)])
    return projector


def stacked():
    return keras.Sequential([dense(8, activation="relu"), dense(16)])


def schedule(step):
    return 1.0 + step


# Each makes the same loss for the same seed.
MAKERS = {
    "Hint": lambda: Hint(*HIDDEN),
    "Hint, given projector": lambda: Hint(*HIDDEN, projector=dense(16)),
    "Hint, given stack": lambda: Hint(*HIDDEN, projector=stacked()),
    "Hint, projector with weights": lambda: Hint(*HIDDEN, projector=built_projector()),
    "Hint of two layers": lambda: Hint(("hidden", "head"), ("hidden", "head"), projector=[None, dense(3)]),
    "VariationalInformation": lambda: VariationalInformation(*HIDDEN),
    "OverhaulDistillation": lambda: OverhaulDistillation([-0.1] * 16, *HIDDEN),
    "CurriculumTemperature": lambda: CurriculumTemperature(4),
    "Standardized CurriculumTemperature": lambda: Standardized(CurriculumTemperature(4)),
    "ContrastiveRepresentation": lambda: ContrastiveRepresentation(Y, *HIDDEN, negatives=4, width=4),
    "SoftTargets, schedule": lambda: SoftTargets(schedule),
}


def fold(teacher, loss, width=4):
    """Trains a new student; returns its weights and logs."""
    keras.utils.set_random_seed(1)
    distiller = Distiller(teacher, dense_net(width), loss)
    distiller.compile(keras.optimizers.Adam(0.1), CE, run_eagerly=True)  # faster than to trace a few steps
    history = distiller.fit(Identified(X, IDS), Y, batch_size=8, verbose=0).history
    return distiller, history


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.sweep(1)
def test_a_second_fold_is_the_same_as_with_a_new_loss(name, teacher):
    keras.utils.set_random_seed(0)
    again = MAKERS[name]()
    fold(teacher, again)
    second, logs = fold(teacher, again)
    keras.utils.set_random_seed(0)
    fresh, wanted = fold(teacher, MAKERS[name]())
    assert logs.keys() == wanted.keys()
    for key in wanted:
        np.testing.assert_allclose(logs[key], wanted[key], rtol=1e-5, atol=1e-7, err_msg=key)
    assert len(second.variables) == len(fresh.variables)
    for found, expected in zip(second.student.get_weights(), fresh.student.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "Hint, projector with weights"])
@pytest.mark.sweep(1)
def test_the_next_student_may_have_another_width(name, teacher):
    loss = MAKERS[name]()
    Distiller(teacher, dense_net(4), loss)
    distiller, history = fold(teacher, loss, width=5)
    assert np.isfinite(history["loss"]).all()
    trained = {id(variable) for variable in distiller.trainable_variables}
    for layer in loss.layers:
        assert all(id(variable) in trained for variable in layer.trainable_variables)


def test_a_schedule_and_a_number_start_as_they_were_given(teacher):
    loss = SoftTargets(schedule)
    fold(teacher, loss)
    assert loss.temperature == 2.0  # of the second step
    Distiller(teacher, dense_net(4), loss)
    assert loss.temperature == 1.0
    loss = SoftTargets(4.0)
    loss.temperature = 2.0
    for _ in range(2):
        Distiller(teacher, dense_net(4), loss)
    assert loss.temperature == 2.0  # set by hand


def test_a_distiller_that_is_refused_takes_no_loss_from_another(teacher):
    loss = MAKERS["Hint"]()
    first, _ = fold(teacher, loss)
    elsewhere = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="only")])
    for pair in ((teacher, elsewhere), (elsewhere, dense_net(4))):
        with pytest.raises(ValueError, match="hidden"):
            Distiller(*pair, loss)
    first.fit(X, Y, verbose=0)


@pytest.mark.parametrize("name", ["Hint", "CurriculumTemperature", "Standardized CurriculumTemperature"])
@pytest.mark.sweep(1)
def test_the_first_distiller_does_not_go_on_with_what_is_no_longer_its_own(name, teacher):
    loss = MAKERS[name]()
    first, _ = fold(teacher, loss)
    before = [as_numpy(variable) for variable in first.variables]
    second, _ = fold(teacher, loss)
    for work in (lambda: first.fit(X, Y, verbose=0), lambda: first.train_on_batch(X, Y)):
        with pytest.raises(ValueError, match=r"which another Distiller has now.*make a loss object for each"):
            work()
    if name == "Hint":  # θ belongs to the loss; what a projector learned stays the first Distiller's
        assert all(map(np.array_equal, before, [as_numpy(variable) for variable in first.variables]))
    second.fit(X, Y, verbose=0)
    assert first.evaluate(X, Y, verbose=0, return_dict=True)


def test_losses_without_state_may_be_shared(teacher):
    loss = [SoftTargets(4.0), LogitMSE(), Standardized()]
    first, second = (Distiller(teacher, dense_net(4), loss) for _ in range(2))
    for distiller in (first, second, first):
        distiller.compile("sgd", CE, run_eagerly=True)
        distiller.fit(X, Y, verbose=0)


def test_one_object_twice_in_a_distiller(teacher):
    hint = Hint(*HIDDEN)
    with pytest.raises(ValueError, match=r"the same Hint 'hint' twice. Make an object for each"):
        Distiller(teacher, dense_net(4), [hint, hint])
    nets = [dense_net(4, name="a"), dense_net(4, name="b")]
    for loss in (Standardized(), CurriculumTemperature(4)):  # one for all outputs
        MutualLearning(nets, loss)


def test_a_projector_is_trained_by_one_loss(teacher):
    projector = layers.Dense(16)
    Distiller(teacher, dense_net(4), Hint(*HIDDEN, projector=projector))
    with pytest.raises(ValueError, match=r"which another loss has trained, for 'hint'. Make a new layer"):
        Distiller(teacher, dense_net(4), Hint(*HIDDEN, projector=projector))
    identity = layers.Identity()  # trains nothing
    for _ in range(2):
        Distiller(teacher, dense_net(16), Hint(*HIDDEN, projector=identity))


def test_a_projector_that_was_given_stays_trained(teacher):
    projector = layers.Dense(16)
    loss = Hint(*HIDDEN, projector=projector)
    fold(teacher, loss)
    trained = projector.get_weights()
    Distiller(teacher, dense_net(4), loss)
    assert all(map(np.array_equal, trained, projector.get_weights()))
    assert loss.projectors[0] is not projector


def test_a_projector_with_weights_of_another_width_is_refused(teacher):
    loss = Hint(*HIDDEN, projector=built_projector())
    Distiller(teacher, dense_net(4), loss)
    with pytest.raises(ValueError, match=r"has its weights already, for student \(None, 5\)"):
        Distiller(teacher, dense_net(5), loss)


class Own(layers.Layer):
    """A projector that cannot be made anew."""

    def __init__(self, units, note):
        super().__init__()
        self.dense = layers.Dense(units)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        return self.dense(inputs)


class Early(DistillationLoss):
    """Creates a layer too early, and gives it weights in `build`."""

    def __init__(self):
        super().__init__()
        self.layers.append(layers.Dense(3))

    def build(self, teacher, student):
        self.layers[0].build(student.shape)

    def call(self, teacher, student):
        return keras.ops.sum(self.layers[0](student) - teacher, axis=-1)


def test_what_cannot_be_made_anew_is_refused(teacher):
    for loss, message in (
        (Hint(*HIDDEN, projector=Own(16, note="x")), r"second Distiller.*cannot be made anew.*get_config"),
        (Early(), r"second Distiller.*Create them in build"),
    ):
        Distiller(teacher, dense_net(4), loss)
        with pytest.raises(ValueError, match=message):
            Distiller(teacher, dense_net(4), loss)


def test_a_loss_that_was_called_by_hand_fits_what_it_was_called_on(teacher):
    loss = Hint(*HIDDEN)
    loss(np.zeros((2, 16), "float32"), np.zeros((2, 5), "float32"))
    with pytest.raises(
        ValueError, match=r"Received: teacher \(None, 16\) and student \(None, 4\), with other"
    ):
        Distiller(teacher, dense_net(4), loss)
    crd = ContrastiveRepresentation(Y, negatives=4, width=4)
    crd(np.zeros((2, 2, 3), "float32"), np.zeros((2, 3), "float32"), ids=IDS[:2])
    with pytest.raises(ValueError, match="with other channels than before"):
        crd(np.zeros((2, 4, 3), "float32"), np.zeros((2, 3), "float32"), ids=IDS[:2])


def test_a_distiller_that_is_refused_for_its_shapes_takes_no_loss():
    hint = Hint(*HIDDEN)
    first = Distiller(dense_net(8), dense_net(4), hint)
    first.compile("sgd", CE)
    first.fit(X, Y, verbose=0)
    trained = [as_numpy(variable) for layer in hint.layers for variable in layer.variables]

    def tokens(layer):
        inputs = keras.Input((5, 4))
        return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(layer(inputs))))

    with pytest.raises(ValueError, match="Received: teacher"):
        Distiller(tokens(layers.Conv1D(8, 2, name="hidden")), tokens(layers.Dense(8, name="hidden")), hint)
    for variable, value in zip((v for layer in hint.layers for v in layer.variables), trained, strict=True):
        np.testing.assert_array_equal(as_numpy(variable), value)
    first.fit(X, Y, verbose=0)
