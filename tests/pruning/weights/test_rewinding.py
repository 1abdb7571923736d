"""Pruning with rewinding: what each round starts from, how long it is, and which zeros it keeps."""

import keras
import numpy as np
import pytest
from backend import as_numpy
from conftest import dense_net

from distill import Distiller, SoftTargets, pruning
from distill.pruning import Blocks, NofM, find_kernels, iterative
from distill.pruning.weights._masks import mask_of, pruned_part

CE = "sparse_categorical_crossentropy"


SHARES = [0.25, 0.5, 0.75]


SCHEDULE = keras.optimizers.schedules.CosineDecay(0.01, 20)


def net(optimizer="adam", **kwargs):
    model = dense_net(4, batch_norm=True)
    model.compile(keras.optimizers.get(optimizer), CE, run_eagerly=True, **kwargs)
    return model


def values(variables):
    return {variable.path: as_numpy(variable).copy() for variable in variables}


class Watch(keras.callbacks.Callback):
    """The state before every update of one training, and after the last."""

    def on_train_begin(self, logs=None):
        self.states, self.rates = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.note()
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_train_end(self, logs=None):
        self.note()

    def note(self):
        kernels = find_kernels(pruned_part(self.model)).found
        masks = [mask_of(kernel) for kernel in kernels]
        self.states.append(
            {
                "iterations": int(self.model.optimizer.iterations),
                "model": values(self.model.variables),
                "optimizer": values(self.model.optimizer.variables),
                "kept": {
                    kernel.variable.path: np.ones(kernel.variable.shape, bool)
                    if mask is None
                    else as_numpy(mask.kept).copy()
                    for kernel, mask in zip(kernels, masks, strict=True)
                },
            }
        )


class Training:
    """Two epochs of 4 updates; keeps what each training went through."""

    def __init__(self, batch, epochs=2, shuffle=False):
        self.batch, self.epochs, self.shuffle = batch, epochs, shuffle
        self.runs = []

    def __call__(self, model, callbacks):
        watch = Watch()
        model.fit(
            *self.batch,
            batch_size=10,
            epochs=self.epochs,
            shuffle=self.shuffle,
            verbose=0,
            callbacks=[watch, *callbacks],
        )
        self.runs.append(watch)


def same(found, expected, but=()):
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        if path not in but:
            np.testing.assert_array_equal(found[path], value, err_msg=path)


def masked(state, kept):
    return {path: np.where(kept[path], v, 0) if path in kept else v for path, v in state.items()}


def magnitudes_cut(trained, before, share):
    """The masks that pruning by magnitude gives, of what is left."""
    found = {}
    for path, kept in before.items():
        order = np.argsort(np.where(kept, np.abs(trained[path]), -1), axis=None, kind="stable")
        mask = np.ones(kept.size, bool)
        mask[order[: round(kept.size * share)]] = False
        found[path] = mask.reshape(kept.shape)
    return found


@pytest.mark.parametrize("rewind", ["weights", "learning rate", None])
@pytest.mark.parametrize("to_step", [0, 3])
@pytest.mark.sweep(1)
def test_each_round_prunes_what_was_trained_and_starts_where_it_should(rewind, to_step, batch):
    model, train = net(keras.optimizers.Adam(SCHEDULE)), Training(batch)
    found = iterative(model, train, SHARES, rewind=rewind, to_step=to_step)
    dense, *rounds = [run.states for run in train.runs]
    assert len(rounds) == len(found) == 3
    assert [len(states) - 1 for states in (dense, *rounds)] == [8] + [8 - to_step] * 3
    snapshot = dense[to_step]
    previous = dense[-1]
    for states, share, sparsity in zip(rounds, SHARES, found, strict=True):
        first = states[0]
        kept = first["kept"]
        same(kept, magnitudes_cut(previous["model"], previous["kept"], share))
        assert not any((kept[path] & ~previous["kept"][path]).any() for path in kept)
        assert [kernel.zeros for kernel in sparsity.kernels] == [int((~mask).sum()) for mask in kept.values()]
        assert [kernel.zeros for kernel in sparsity.kernels] == [round(24 * share), round(12 * share)]
        start = snapshot if rewind == "weights" else previous
        same(first["model"], masked(start["model"], kept))
        wanted = (previous if rewind is None else snapshot)["optimizer"]
        zeros = {path: np.zeros_like(value) for path, value in first["optimizer"].items()}
        same(first["optimizer"], zeros | wanted)  # before the first update Adam remembers nothing
        assert first["iterations"] == (previous["iterations"] if rewind is None else to_step)
        for state in states:
            same(state["kept"], kept)
            same(state["model"], masked(state["model"], kept))
        previous = states[-1]
    assert {"norm/moving_mean", "hidden/kernel"} < dense[0]["model"].keys()
    assert all((as_numpy(k.variable) == 0).mean() == 0.75 for k in find_kernels(model).found)
    model.fit(*batch, verbose=0)  # the masks stay
    assert all((as_numpy(k.variable) == 0).mean() == 0.75 for k in find_kernels(model).found)


@pytest.mark.parametrize("rewind", ["weights", "learning rate", None])
@pytest.mark.sweep(1)
def test_schedules_run_again_or_stand_still(rewind, batch):
    model, train = net(keras.optimizers.Adam(SCHEDULE)), Training(batch)
    iterative(model, train, [0.5, 0.6], rewind=rewind, to_step=2)
    rates = [float(SCHEDULE(step)) for step in range(8)]
    again = [rates[7]] * 6 if rewind is None else rates[2:]
    for run, expected in zip(train.runs, (rates, again, again), strict=True):
        np.testing.assert_allclose(run.rates, expected, rtol=1e-6)
    assert model.optimizer._learning_rate is SCHEDULE
    assert model.optimizer.iterations == (8 + 12 if rewind is None else 8)


def test_nothing_pruned_is_the_dense_training_again(batch):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu")(inputs)
    x = keras.layers.Dropout(0.5, seed=3)(x)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(SCHEDULE), CE, run_eagerly=True)
    train = Training(batch)
    iterative(model, train, [0.0], rewind="weights", to_step=4)  # where the second epoch's batches begin
    dense, again = train.runs
    for one, other in zip(again.states, dense.states[4:], strict=True):
        for path, value in other["model"].items():
            np.testing.assert_allclose(one["model"][path], value, rtol=1e-5, atol=1e-7, err_msg=path)


def test_a_traced_step_sees_masks_and_rates(batch):
    model, train = net(keras.optimizers.Adam(SCHEDULE)), Training(batch)
    model.compile(keras.optimizers.SGD(SCHEDULE, momentum=0.9), CE)
    iterative(model, train, [0.5], rewind=None)
    path = "head/bias"
    states = [state["model"][path] for state in train.runs[1].states]
    memories = [
        value
        for state in train.runs[1].states
        for name, value in state["optimizer"].items()
        if name.endswith("head_bias_momentum")
    ]
    assert len(states) == len(memories) == 9
    np.testing.assert_allclose(np.diff(states, axis=0), memories[1:], rtol=1e-3, atol=1e-6)
    model.compile(keras.optimizers.SGD(0.1), CE)
    iterative(model, train, [0.75], rewind="weights")
    for kernel in find_kernels(model).found:
        assert (as_numpy(kernel.variable) == 0).mean() == 0.75


@pytest.mark.parametrize(("to_step", "taken"), [(2, 2), (6, 7)])
@pytest.mark.sweep(1)
def test_steps_per_execution(to_step, taken, batch):
    x, y = batch
    model, train = net(), Training((np.tile(x, (2, 1))[:50], np.tile(y, 2)[:50]))
    model.compile("adam", CE, steps_per_execution=2)
    iterative(model, train, [0.5], to_step=to_step)
    # Epochs of 5 updates: executions end after 2, 4, 5, 7, 9, 10.
    dense, again = [[state["iterations"] for state in run.states] for run in train.runs]
    assert dense == [0, 2, 4, 5, 7, 9, 10]
    assert again[0] == taken
    assert again[-1] == {2: 11, 7: 11}[taken]
    with pytest.raises(
        ValueError, match="a multiple of steps_per_execution, .*to_step=3, steps_per_execution=2"
    ):
        iterative(model, train, [0.6], to_step=3)


def test_updates_are_counted_where_gradients_are_accumulated(batch):
    model, train = net(keras.optimizers.Adam(SCHEDULE, gradient_accumulation_steps=2)), Training(batch)
    iterative(model, train, [0.5], to_step=1)
    dense, again = [run.states for run in train.runs]
    assert [state["iterations"] for state in dense] == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert [state["iterations"] for state in again] == [1, 1, 2, 2, 3, 3, 4]
    same(again[0]["optimizer"], dense[2]["optimizer"])


@pytest.mark.parametrize("rewind", ["weights", None])
@pytest.mark.sweep(1)
def test_loss_scaling(rewind, batch):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(SCHEDULE), initial_scale=2.0**10)
    model, train = net(optimizer), Training(batch)
    iterative(model, train, [0.5], rewind=rewind, to_step=2)
    dense, again = train.runs
    assert len(again.states) == 7
    same(again.states[0]["optimizer"], dense.states[2 if rewind else -1]["optimizer"])
    expected = [float(SCHEDULE(step)) for step in range(2, 8)] if rewind else [float(SCHEDULE(7))] * 6
    np.testing.assert_allclose(again.rates, expected, rtol=1e-6)
    assert model.optimizer.inner_optimizer._learning_rate is SCHEDULE


@pytest.mark.parametrize("rewind", ["weights", "learning rate", None])
@pytest.mark.sweep(1)
def test_a_distiller_prunes_its_student_and_its_schedules_follow(rewind, batch):
    share = keras.optimizers.schedules.PolynomialDecay(1.0, 16, 0.0)
    teacher = dense_net(8, name="teacher")
    model = Distiller(teacher, net(), SoftTargets(2.0), student_loss_weight=share)
    model.compile("adam", CE, run_eagerly=True)
    before = values(teacher.variables)
    train = Training(batch)
    found = iterative(model, train, SHARES, rewind=rewind, to_step=2)
    same(values(teacher.variables), before)
    assert [kernel.name for kernel in found[0].kernels] == ["hidden/kernel", "head/kernel"]
    dense, first, second, last = [run.states for run in train.runs]
    steps = [int(states[0]["model"]["step"]) for states in (dense, first, second, last)]
    assert steps == ([0, 8, 14, 20] if rewind is None else [0, 2, 2, 2])
    start = dense[2] if rewind == "weights" else dense[-1]
    wanted = masked(start["model"], first[0]["kept"])
    schedules = [path for path in wanted if "weight" in path or path in ("step", "temperature")]
    same(first[0]["model"], wanted, but=schedules if rewind == "learning rate" else ())
    # A schedule's value is set by the step that uses it.
    np.testing.assert_allclose(last[1]["model"]["student_loss_weight"], max(0, 1 - steps[-1] / 16), atol=1e-6)
    assert (as_numpy(model.student.get_layer("hidden").kernel) == 0).sum() == 18


def test_patterns_scopes_and_layers(batch):
    model, train = net(), Training(batch)
    (found,) = iterative(
        model, train, [0.5], pattern=Blocks((2, 2)), scope="global", include="hidden", rewind="learning rate"
    )
    assert [(kernel.name, kernel.zeros) for kernel in found.kernels] == [("hidden/kernel", 12)]
    mask = train.runs[1].states[0]["kept"]["hidden/kernel"]
    assert (mask.reshape(3, 2, 2, 2).transpose(0, 2, 1, 3).reshape(6, 4).sum(1) % 4 == 0).all()
    assert as_numpy(model.get_layer("head").kernel).all()


def never(model, callbacks):
    raise AssertionError("trained before it was refused")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsities": []}, "each round prunes more .* Received: sparsities=\\[\\]"),
        ({"sparsities": [0.5, 0.5]}, "each round prunes more"),
        ({"sparsities": [0.5, 0.4]}, "ascending"),
        ({"sparsities": [0.5, 1.0]}, "0 <= sparsity < 1. Received: sparsity=1.0"),
        ({"rewind": "rates"}, "'weights', 'learning rate' or None. Received: rewind='rates'"),
        ({"to_step": -1}, "to_step must be an integer >= 0. Received: to_step=-1"),
        ({"to_step": 1.5}, "Received: to_step=1.5"),
        ({"pattern": NofM(2, 4)}, "can have any sparsity. Received: NofM"),
        ({"scope": "model"}, "Received: scope='model'"),
        ({"pattern": Blocks((2, 2)), "scope": "output"}, "Blocks span several outputs"),
        ({"include": "nowhere"}, "match no layer of"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused_before_any_training(options, message):
    options = {"sparsities": [0.5]} | options
    with pytest.raises(ValueError, match=message):
        iterative(net(), never, **options)


def test_an_importance_that_refuses_the_model_does_so_before_any_training(batch):
    def refuses(model, kernels):
        raise ValueError("not this model")

    with pytest.raises(ValueError, match="not this model"):
        iterative(net(), lambda model, callbacks: pytest.fail("trained"), [0.5], importance=refuses)
    model = net()
    late = pruning.GradualPruning(pruning.ConstantSparsity(0.5, 3, frequency=1), importance=refuses)
    with pytest.raises(ValueError, match="not this model"):
        model.fit(*batch, batch_size=8, epochs=2, verbose=0, callbacks=[late])
    assert model.optimizer.iterations == 0


def test_models_and_functions_that_do_not_fit():
    with pytest.raises(ValueError, match="which is not compiled. Compile it first"):
        iterative(dense_net(4), never, [0.5])
    with pytest.raises(TypeError, match="Received: train=None"):
        iterative(net(), None, [0.5])
    unbuilt = keras.Sequential([keras.layers.Dense(3)])
    unbuilt.compile("adam", CE)
    with pytest.raises(ValueError, match="must be built before its kernels can be found"):
        iterative(unbuilt, never, [0.5])


class EndsTwice(Training):
    """Calls fit again after the callback has stopped it."""

    def __call__(self, model, callbacks):
        super().__call__(model, callbacks)
        if len(self.runs) > 1:
            super().__call__(model, callbacks)


@pytest.mark.slow
def test_trainings_that_do_not_fit(batch):
    def forgetful(model, callbacks):
        model.fit(*batch, batch_size=10, verbose=0)

    def idle(model, callbacks):
        pass

    def compiles(model, callbacks):
        model.compile("adam", CE, run_eagerly=True)
        model.fit(*batch, verbose=0, callbacks=callbacks)

    class OnceMindful:
        done = False

        def __call__(self, model, callbacks):
            model.fit(*batch, batch_size=10, verbose=0, callbacks=() if self.done else callbacks)
            self.done = True

    for train, updates in ((forgetful, 4), (idle, 0)):
        with pytest.raises(ValueError, match=f"to_step=0, and {updates} updates. Pass the callbacks on"):
            iterative(net(), train, [0.5])
    for to_step in (4, 9):
        with pytest.raises(ValueError, match=f"to_step={to_step}, and 4 updates. .*smaller to_step"):
            iterative(net(), Training(batch, epochs=1), [0.5], to_step=to_step)
    with pytest.raises(ValueError, match="a train that compiled the model"):
        iterative(net(), compiles, [0.5])
    with pytest.raises(
        ValueError, match="Each round must make 8 updates.* Received: 9 updates. .*call it once"
    ):
        iterative(net(), EndsTwice(batch), [0.5])
    with pytest.raises(ValueError, match="Received: 4 updates, none of which the callback saw"):
        iterative(net(), OnceMindful(), [0.5])


def test_rounds_begin_with_less_than_they_prune():
    model = dense_net(8)
    model.compile("sgd", CE)
    pruning.prune(model, 0.8)
    with pytest.raises(
        ValueError, match="a first sparsity of 0.5, and hidden/kernel, in which 38 weights are pruned"
    ):
        iterative(model, never, [0.5])


@pytest.mark.slow
def test_zeros_stay_under_an_optimizer_that_averages_weights(batch):
    """At the end of a fit, its averages take the place of the weights, and know no masks."""
    model = net(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9))

    def train(model, callbacks):
        model.fit(*batch, epochs=2, batch_size=8, verbose=0, callbacks=callbacks)

    reports = iterative(model, train, [0.5, 0.75])
    for report in reports[-1:]:
        assert report.zeros == sum(
            int((as_numpy(kernel.variable) == 0).sum()) for kernel in find_kernels(model).found
        )
