"""Losses on layers against the float64 oracle, and the mutants it catches."""

import functools
import json

import hypothesis
import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, as_numpy, as_tensor, compiled, dtype_of, value_and_gradients
from hypothesis import strategies as st
from keras import layers, ops

from distill.losses import features
from distill.losses.features import (
    AttentionTransfer,
    Hint,
    NeuronSelectivity,
    OverhaulDistillation,
    VariationalInformation,
    batch_norm_margins,
)

MARGINS = [-0.3, -1.0, 0.0, -0.1]
Overhaul = functools.partial(OverhaulDistillation, MARGINS)
PaperAttention = functools.partial(AttentionTransfer, paper_form=True)


# --- what the oracle needs of a projector: its arithmetic again, on its weights -----------------------


def linear(values, kernel, bias=None):
    kernel = np.asarray(kernel, "float64").reshape(values.shape[-1], -1)
    return values @ kernel + (0.0 if bias is None else np.asarray(bias, "float64"))


def batch_norm(values, gamma, beta):
    axes = tuple(range(values.ndim - 1))
    mean, variance = values.mean(axis=axes), values.var(axis=axes)
    return gamma * (values - mean) / np.sqrt(variance + 1e-5) + beta


def weights_of(loss):
    """What the loss trains, in float64."""
    trained = [variable for layer in loss.layers for variable in layer.trainable_variables]
    return [as_numpy(variable).astype("float64") for variable in trained]


def hint(loss, teacher, student, weights=None):
    """The regressor between maps of one size, or the dense layer of vectors and tokens."""
    kernel, bias, *norm = weights or weights_of(loss)
    projected = linear(np.asarray(student, "float64"), kernel, bias)
    return reference.hint(teacher, np.maximum(batch_norm(projected, *norm), 0) if norm else projected)


def vid(loss, teacher, student, weights=None):
    teacher, student = smaller(teacher, student)
    first, second, third, a = weights or weights_of(loss)
    mu = linear(np.maximum(linear(np.maximum(linear(student, first), 0), second), 0), third)
    return reference.vid(teacher, mu, a)


def ofd(loss, teacher, student, weights=None):
    kernel, *norm = weights or weights_of(loss)
    connected = batch_norm(linear(np.asarray(student, "float64"), kernel), *norm)
    return reference.ofd([teacher], [connected], [MARGINS])


def attention(loss, teacher, student):
    return reference.attention_transfer(teacher, student, loss.p, paper=loss.paper_form)


def nst(loss, teacher, student):
    return reference.nst(teacher, student)


def smaller(teacher, student):
    if np.ndim(teacher) != 4:
        return np.asarray(teacher, "float64"), np.asarray(student, "float64")
    pairs = [reference.to_smaller(t, s) for t, s in zip(teacher, student, strict=True)]
    return tuple(np.array(side) for side in zip(*pairs, strict=True))


# (make a loss, its oracle)
LOSSES = [
    pytest.param(Hint, hint, id="Hint"),
    pytest.param(AttentionTransfer, attention, id="AttentionTransfer"),
    pytest.param(PaperAttention, attention, id="AttentionTransfer, paper"),
    pytest.param(VariationalInformation, vid, id="VariationalInformation"),
    pytest.param(NeuronSelectivity, nst, id="NeuronSelectivity"),
    pytest.param(Overhaul, ofd, id="OverhaulDistillation"),
]
every_loss = pytest.mark.parametrize(("make", "oracle"), LOSSES)
POOLING = [LOSSES[i] for i in (1, 2, 3, 4)]


def maps(teacher=(3, 3, 2, 4), student=(3, 3, 2, 3), scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    return tuple((scale * rng.normal(size=shape)).astype("float32") for shape in (teacher, student))


def built(make, teacher, student, **arguments):
    """The loss, with weights and statistics of its layers that are not those of a fresh one."""
    loss = make(**arguments)
    loss.ensure_built(as_tensor(teacher), as_tensor(student))
    rng = np.random.default_rng(1)
    for variable in loss.variables:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, size=variable.shape))
    return loss


@every_loss
def test_value_and_gradient_follow_the_definition(make, oracle):
    follows(make, oracle)


def follows(make, oracle, teacher=(3, 3, 2, 4), scale=1.0):
    teacher, student = maps(teacher, scale=scale)
    loss = built(make, teacher, student)
    per_example = loss.call(as_tensor(teacher), as_tensor(student))
    assert tuple(per_example.shape) == (3,)
    assert dtype_of(per_example) == "float32"
    expected = oracle(loss, teacher, student)
    np.testing.assert_allclose(as_numpy(per_example), expected, rtol=1e-5, atol=1e-8)

    value, (to_teacher, to_student) = value_and_gradients(loss, teacher, student)
    np.testing.assert_allclose(value, expected.mean(), rtol=1e-5)
    numeric = reference.gradient(lambda s: oracle(loss, teacher, s).mean(), student, step=1e-6 * scale)
    size = np.abs(numeric).max()
    np.testing.assert_allclose(to_student, numeric, rtol=1e-4, atol=2e-5 * size)
    assert to_teacher is None


@pytest.mark.parametrize(("make", "oracle"), POOLING)
@pytest.mark.parametrize("teacher", [(3, 5, 4, 4), (3, 2, 1, 4), (3, 2, 5, 4)])
def test_the_larger_map_is_pooled(make, oracle, teacher):
    follows(make, oracle, teacher)


@pytest.mark.parametrize(("make", "oracle"), [LOSSES[1], LOSSES[2]])
def test_attention_of_norms_about_the_epsilon(make, oracle):
    follows(make, oracle, scale=7e-7)


def test_neuron_selectivity_of_norms_about_the_epsilon():
    follows(NeuronSelectivity, nst, scale=6e-13)


@pytest.mark.parametrize(("make", "oracle"), [LOSSES[i] for i in (1, 2, 4)])
@hypothesis.settings(max_examples=4 if BACKEND == "jax" else 25, deadline=None)
@hypothesis.given(data=st.data())
def test_value_over_random_shapes(make, oracle, data):
    batch, *sizes = (data.draw(st.integers(1, 6)) for _ in range(7))
    shapes = (batch, *sizes[:3]), (batch, *sizes[3:])
    teacher, student = maps(*shapes, scale=data.draw(st.sampled_from([1e-2, 1.0, 1e4])))
    loss = make()
    values = as_numpy(loss.call(as_tensor(teacher), as_tensor(student)))
    np.testing.assert_allclose(values, oracle(loss, teacher, student), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 3, 4])
def test_the_power_of_attention(p):
    make = functools.partial(AttentionTransfer, p=p)
    follows(make, attention)


@pytest.mark.parametrize("channels", [2, 9])
def test_neuron_selectivity_is_one_number_by_either_gram_matrix(channels):
    """9 channels have more pairs than 6 positions, 2 have fewer."""
    teacher = maps((3, 3, 2, channels), seed=4)[0]
    follows(NeuronSelectivity, nst, teacher.shape)


@pytest.mark.parametrize(("make", "oracle"), [LOSSES[0], LOSSES[3], LOSSES[5]])
def test_vectors(make, oracle):
    teacher, student = maps((5, 4), (5, 3))
    loss = built(make, teacher, student)
    value, (to_teacher, to_student) = value_and_gradients(loss, teacher, student)
    np.testing.assert_allclose(value, oracle(loss, teacher, student).mean(), rtol=1e-5)
    numeric = reference.gradient(lambda s: oracle(loss, teacher, s).mean(), student)
    np.testing.assert_allclose(to_student, numeric, rtol=1e-4, atol=1e-6)
    assert to_teacher is None


@pytest.mark.parametrize(("make", "oracle"), [LOSSES[0], LOSSES[3]])
def test_tokens_keep_their_own_values_and_masks_count(make, oracle):
    teacher, student = maps((2, 5, 4), (2, 5, 3))
    loss = built(make, teacher, student)
    flat = oracle(loss, teacher.reshape(10, 4), student.reshape(10, 3))
    values = as_numpy(loss.call(as_tensor(teacher), as_tensor(student)))
    np.testing.assert_allclose(values, flat.reshape(2, 5), rtol=1e-5)
    kept = np.arange(5) < np.array([[5], [2]])
    masked = as_tensor(student)
    keras.src.backend.set_keras_mask(masked, as_tensor(kept))
    value = as_numpy(loss(as_tensor(teacher), masked))
    np.testing.assert_allclose(value, values[kept].mean(), rtol=1e-5)


@every_loss
def test_blind_to_the_order_of_examples(make, oracle):
    teacher, student = maps()
    loss = built(make, teacher, student)
    order = np.array([2, 0, 1])
    in_order = as_numpy(loss.call(as_tensor(teacher), as_tensor(student)))
    shuffled = as_numpy(loss.call(as_tensor(teacher[order]), as_tensor(student[order])))
    np.testing.assert_allclose(shuffled, in_order[order], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(Hint, projector=layers.Identity()),
        AttentionTransfer,
        PaperAttention,
        NeuronSelectivity,
        functools.partial(OverhaulDistillation, [-9.0] * 4, projector=layers.Identity()),
    ],
)
def test_zero_at_equality(make):
    teacher, _ = maps()
    value, (_, gradient) = value_and_gradients(built(make, teacher, teacher), teacher, teacher)
    np.testing.assert_allclose(value, 0.0, atol=1e-6)
    if gradient is not None:
        np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


@every_loss
def test_computes_in_float32_whatever_comes(make, oracle):
    for dtype in ("float16", "bfloat16"):
        teacher, student = (ops.cast(side, dtype) for side in maps())
        loss = built(make, teacher, student)
        value = loss(teacher, student)
        assert dtype_of(value) == "float32"
        sides = (as_numpy(ops.cast(side, "float32")).astype("float64") for side in (teacher, student))
        np.testing.assert_allclose(as_numpy(value), oracle(loss, *sides).mean(), rtol=1e-5)


@every_loss
def test_makes_its_layers_in_float32_under_any_policy(make, oracle):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        teacher, student = maps()
        loss = built(make, teacher, student)
        value = as_numpy(loss(teacher, student))
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_allclose(value, oracle(loss, teacher, student).mean(), rtol=1e-5)


@every_loss
@pytest.mark.parametrize("batch", [1, 3])
def test_finite_for_constant_features(make, oracle, batch):
    loss = built(make, *maps((batch, 3, 2, 4), (batch, 3, 2, 3)))
    for teacher, student in ((0, 0), (1, 0), (0, 1), (3, 3), (1e4, -1e4), (-1e4, 1e4)):
        sides = np.full((batch, 3, 2, 4), teacher, "float32"), np.full((batch, 3, 2, 3), student, "float32")
        value, (_, gradient) = value_and_gradients(loss, *sides)
        normalizes = make in (Hint, Overhaul)
        if normalizes and BACKEND == "torch" and abs(student) > 3:
            continue  # Keras' variance of a large constant is E[x²] − E[x]² there, which may be negative: NaN
        assert np.isfinite(value)
        assert gradient is None or np.isfinite(gradient).all()
        if not normalizes:  # which makes numbers of the rounding of a large constant
            np.testing.assert_allclose(value, oracle(loss, *sides).mean(), rtol=1e-5, atol=1e-6)


@every_loss
def test_finite_for_huge_features_in_half_precision(make, oracle):
    teacher, student = (side.astype("float16") for side in maps(scale=1e4))
    loss = built(make, teacher, student)
    value, (_, gradient) = value_and_gradients(loss, teacher, student)
    np.testing.assert_allclose(value, oracle(loss, teacher, student).mean(), rtol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("make", "oracle"), [LOSSES[0], LOSSES[3], LOSSES[5]])
def test_what_it_trains_gets_its_gradient(make, oracle):
    teacher, student = maps()
    loss = built(make, teacher, student)
    trained = [variable for layer in loss.layers for variable in layer.trainable_variables]
    _, (_, *gradients) = value_and_gradients(functools.partial(loss, teacher), student, variables=trained)
    weights = weights_of(loss)
    for i, gradient in enumerate(gradients):

        def at(value, i=i):
            return oracle(loss, teacher, student, [*weights[:i], value, *weights[i + 1 :]]).mean()

        numeric = reference.gradient(at, weights[i])
        if gradient is None:  # how JAX's zeros come
            gradient = np.zeros_like(numeric)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-6, err_msg=trained[i].path)


@every_loss
def test_sample_weight_multiplies_each_row(make, oracle):
    teacher, student = maps()
    loss = built(make, teacher, student)
    weights = np.array([0.0, 2.0, 0.5], "float32")
    expected = (weights * oracle(loss, teacher, student)).mean()
    np.testing.assert_allclose(as_numpy(loss(teacher, student, sample_weight=weights)), expected, rtol=1e-5)


@every_loss
def test_gives_the_same_in_compiled_code(make, oracle):
    teacher, student = maps()
    loss = built(make, teacher, student)
    step = compiled(loss.__call__, loss.variables)
    value = as_numpy(step(as_tensor(teacher), as_tensor(student)))
    np.testing.assert_allclose(value, oracle(loss, teacher, student).mean(), rtol=1e-5)


# --- stages -------------------------------------------------------------------------------------------

NAMES = {"teacher_layer_name": ["t1", "t2"], "student_layer_name": ["s1", "s2"]}
STAGES = maps(), maps((3, 2, 2, 4), (3, 2, 2, 5), seed=1)


@pytest.mark.parametrize(("make", "oracle"), [LOSSES[i] for i in range(5)])
def test_stages_are_summed(make, oracle):
    sides = [[as_tensor(side) for side in stages] for stages in zip(*STAGES, strict=True)]
    loss = make(**NAMES)
    loss.ensure_built(*sides)
    assert loss.teacher_layer_name == ("t1", "t2")
    expected = 0.0
    for i, (teacher, student) in enumerate(STAGES):
        one = make()
        one.ensure_built(teacher, student)
        if one.layers:
            one.layers[0].set_weights(loss.projectors[i].get_weights())
        expected = expected + oracle(one, teacher, student)
    np.testing.assert_allclose(as_numpy(loss.call(*sides)), expected, rtol=1e-5)


def test_later_stages_of_overhaul_count_more():
    later_stages_count_more(OverhaulDistillation)


def later_stages_count_more(make):
    sides = [[as_tensor(side[..., :3]) for side in stages] for stages in zip(*STAGES, strict=True)]
    margins = [MARGINS[:3], MARGINS[1:]]
    loss = make(margins, **NAMES, projector=[layers.Identity()] * 2)
    loss.ensure_built(*sides)
    expected = reference.ofd(*([as_numpy(stage) for stage in side] for side in sides), margins)
    np.testing.assert_allclose(as_numpy(loss.call(*sides)), expected, rtol=1e-5)


@pytest.mark.parametrize("names", [("a", ("b", "c")), (("a",), ("b", "c")), (("a",), None), ((), ())])
def test_layers_come_in_pairs(names):
    with pytest.raises(ValueError, match=r"Hint compares layers in pairs.*Received: teacher_layer_name="):
        Hint(*names)


def test_tokens_of_stages_are_of_one_length():
    loss = Hint(**NAMES)
    pairs = [maps((2, 5, 4), (2, 5, 3)), maps((2, 6, 4), (2, 6, 3))]
    with pytest.raises(ValueError, match="Hint sums its stages, so tokens come from stages of one length"):
        loss.ensure_built(*([as_tensor(s) for s in side] for side in zip(*pairs, strict=True)))


def test_layers_may_be_named_in_a_subclass():
    class Mine(AttentionTransfer):
        teacher_layer_name, student_layer_name = "a", "b"

    assert (Mine().teacher_layer_name, Mine().student_layer_name) == ("a", "b")
    assert Mine("c", "d").student_layer_name == "d"


# --- margins ------------------------------------------------------------------------------------------


def test_margins_of_a_batch_normalization():
    norm = layers.BatchNormalization()
    norm.build((None, 5))
    beta, gamma = np.array([0.3, -2.0, 3.2, 1.0, -1.0]), np.array([1.0, -0.5, 1.0, 0.0, 0.0])
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    margins = batch_norm_margins(norm)
    np.testing.assert_allclose(margins, reference.ofd_margin(beta, gamma), rtol=1e-5)
    assert margins.dtype == "float32"
    OverhaulDistillation(margins)


def test_margins_without_scale_and_center():
    norm = layers.BatchNormalization(scale=False, center=False)
    norm.build((None, 2))
    np.testing.assert_allclose(batch_norm_margins(norm), [-np.sqrt(2 / np.pi)] * 2, rtol=1e-6)


@pytest.mark.parametrize("layer", [layers.BatchNormalization(), layers.LayerNormalization(), "norm"])
def test_margins_come_from_a_trained_batch_normalization(layer):
    with pytest.raises(ValueError, match="Margins come from the trained batch normalization"):
        batch_norm_margins(layer)


@pytest.mark.parametrize("margins", [None, 0.0, [[-1.0]], [0.1], [float("nan")], [-float("inf")], "abc"])
def test_margins_are_numbers_below_zero(margins):
    with pytest.raises(ValueError, match="Margins are numbers <= 0, one for each channel"):
        OverhaulDistillation(margins)


@pytest.mark.parametrize("margins", [[-1.0, -2.0], [[-1.0]], None])
def test_margins_of_each_stage(margins):
    with pytest.raises(ValueError, match=r"a list with these for each.*for 2 layers"):
        OverhaulDistillation(margins, ("a", "b"), ("a", "b"))


# --- configs and wrong input --------------------------------------------------------------------------

CONFIGS = [
    Hint("a", "b", layers.Dense(3), name="mine"),
    Hint(("a", "c"), ("b", "d"), [None, layers.Dense(3)]),
    AttentionTransfer(("a", "c"), ("b", "d"), p=3, paper_form=True),
    VariationalInformation("a", "b"),
    NeuronSelectivity("a", "b"),
    OverhaulDistillation([-1.0, -0.5], "a", "b", layers.Dense(2)),
    OverhaulDistillation([[-1.0, -0.5], [-0.25]], ("a", "c"), ("b", "d")),
]


@pytest.mark.parametrize("loss", CONFIGS, ids=lambda loss: loss.name)
def test_config_round_trip(loss):
    text = json.dumps(keras.saving.serialize_keras_object(loss))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(loss)
    assert json.dumps(keras.saving.serialize_keras_object(again)) == text
    assert again.teacher_layer_name == loss.teacher_layer_name
    assert again.student_layer_name == loss.student_layer_name


@every_loss
def test_recipe_and_defaults(make, oracle):
    loss = make()
    published = {"hint": 100, "attention_transfer": 1000, "neuron_selectivity": 50}
    assert loss.recipe == {
        "student_loss_weight": 1.0,
        "distillation_weight": published.get(loss.name, 1),
    }
    assert (loss.teacher_layer_name, loss.student_layer_name) == (None, None)


@every_loss
def test_other_kinds_are_refused(make, oracle):
    for shapes in (((3, 3, 2, 4), (3, 4)), ((3,), (3,)), ((3, 2, 2, 2, 4), (3, 2, 2, 2, 4))):
        with pytest.raises(
            ValueError, match=r"the same on both sides\. Received teacher \(3.*Read layers of"
        ):
            make()(*maps(*shapes))


@pytest.mark.parametrize("make", [AttentionTransfer, NeuronSelectivity])
def test_losses_on_maps_take_no_tokens(make):
    with pytest.raises(ValueError, match=r"compares maps .*Reshape turns tokens into a map"):
        make()(*maps((2, 4, 3), (2, 4, 3)))


@pytest.mark.parametrize("make", [Hint, VariationalInformation])
def test_numbers_of_tokens_are_never_broadcast(make):
    with pytest.raises(ValueError, match="compares token by token"):
        make()(*maps((2, 4, 3), (2, 1, 3)))


@every_loss
def test_channels_must_be_known(make, oracle):
    sides = keras.KerasTensor((None, 4, 4, 4)), keras.KerasTensor((None, 4, 4, None))
    with pytest.raises(ValueError, match="must know the channels"):
        make().ensure_built(*sides)


@pytest.mark.parametrize("make", [AttentionTransfer, NeuronSelectivity, VariationalInformation])
def test_sizes_must_be_known_when_the_step_runs(make):
    loss = make()
    sides = keras.KerasTensor((None, None, 4, 4)), keras.KerasTensor((None, 4, 4, 3))
    loss.ensure_built(*sides)  # a data set's examples may still tell
    assert np.isfinite(as_numpy(loss(*maps((2, 4, 4, 4), (2, 4, 4, 3)))))
    with pytest.raises(ValueError, match=r"so their sizes must be known.*fixed size"):
        loss.compare(0, *sides)


def test_sizes_that_differ_are_refused_by_overhaul():
    with pytest.raises(
        ValueError, match=r"projector returns the teacher's shape.*projected student \(None, 1, 1, 4\)"
    ):
        Overhaul().ensure_built(keras.KerasTensor((None, 4, 4, 4)), keras.KerasTensor((None, 1, 1, 3)))


def test_margins_must_fit_the_channels():
    with pytest.raises(ValueError, match=r"a margin for each channel of the teacher, and has 4"):
        Overhaul()(*maps((2, 4, 4, 5), (2, 4, 4, 5)))


def test_a_second_teacher_of_another_shape_is_refused():
    loss = built(Hint, *maps((2, 4), (2, 3)))
    with pytest.raises(ValueError, match="projector returns the teacher's shape"):
        loss(*maps((2, 5), (2, 3)))


@pytest.mark.parametrize("p", [0.5, 5, "2", None])
def test_the_power_has_a_range(p):
    with pytest.raises(ValueError, match="p must be a number from 1 to 4"):
        AttentionTransfer(p=p)


# --- mutants ------------------------------------------------------------------------------------------


def of_projected(formula):
    """`compare` from a formula of the teacher's and the projected features."""

    def compare(self, stage, teacher, student):
        return formula(self, teacher, self.project(stage, teacher, student))

    return {"compare": compare}


def all_of(total, values):
    return total(values, axis=(1, 2, 3))


def likelihood(half=0.5, log=ops.log, spread=lambda loss, t: loss.variances[0](t)):
    def formula(self, teacher, mean):
        variance = spread(self, teacher)
        return all_of(ops.mean, half * (ops.square(mean - teacher) / variance + log(variance)))

    return of_projected(formula)


def partial(margin=True, counted=lambda s, t: ops.logical_or(s > t, t > 0), total=ops.sum, over=1000.0):
    def formula(self, teacher, student):
        target = ops.maximum(teacher, self.margins[0]) if margin else teacher
        kept = ops.cast(counted(student, target), "float32")
        return all_of(total, kept * ops.square(student - target)) / over

    return of_projected(formula)


def attention_maps(difference=lambda d: ops.mean(ops.square(d), axis=-1), unit=features._unit, power=2):
    def compare(self, stage, teacher, student):
        flat = [ops.reshape(ops.mean(ops.abs(f) ** power, axis=-1), (-1, 6)) for f in (student, teacher)]
        return difference(unit(flat[0], axis=-1) - unit(flat[1], axis=-1))

    return {"compare": compare}


def discrepancy(kernel=ops.square, unit=features._unit, cross=2.0, total=ops.mean):
    def compare(self, stage, teacher, student):
        t, s = (unit(ops.reshape(f, (-1, 6, f.shape[-1])), axis=1) for f in (teacher, student))

        def mean(a, b):
            return total(kernel(ops.matmul(ops.transpose(a, (0, 2, 1)), b)), axis=(1, 2))

        return mean(t, t) + mean(s, s) - cross * mean(s, t)

    return {"compare": compare}


def added_epsilon(values, axis):
    return values / (ops.sqrt(ops.sum(ops.square(values), axis=axis, keepdims=True)) + 1e-12)


def in_inference(self, stage, teacher, student):
    return self.projectors[stage](student, training=False)


def learning_teacher(self, teacher, student, sample_weight=None):
    return keras.losses.Loss.__call__(self, teacher, student, sample_weight)


def squared(self, teacher, student):
    return ops.square(student - teacher)


ATTENTION, NST = (AttentionTransfer, attention), (NeuronSelectivity, nst)
HINT, VID, OFD = (Hint, hint), (VariationalInformation, vid), (OverhaulDistillation, ofd)
# name: (loss and oracle, what the mutant has of its own, scale of the features)
MUTANTS = {
    "Hint: sum": (HINT, of_projected(lambda *a: all_of(ops.sum, squared(*a))), 1.0),
    "Hint: halved": (HINT, of_projected(lambda *a: all_of(ops.mean, squared(*a)) / 2), 1.0),
    "Hint: absolute": (HINT, of_projected(lambda self, t, s: all_of(ops.mean, ops.abs(s - t))), 1.0),
    "Hint: statistics of inference": (HINT, {"project": in_inference}, 1.0),
    "AT: sum over positions": (ATTENTION, attention_maps(lambda d: ops.sum(ops.square(d), axis=-1)), 1.0),
    "AT: absolute": (ATTENTION, attention_maps(lambda d: ops.mean(ops.abs(d), axis=-1)), 1.0),
    "AT: p = 1": (ATTENTION, attention_maps(power=1), 1.0),
    "AT: not normalised": (ATTENTION, attention_maps(unit=lambda a, axis: a), 1.0),
    "AT: epsilon added": (ATTENTION, attention_maps(unit=added_epsilon), 7e-7),
    "VID: without log v": (VID, likelihood(log=ops.zeros_like), 1.0),
    "VID: not halved": (VID, likelihood(half=1.0), 1.0),
    "VID: v = e^a": (VID, likelihood(spread=lambda loss, t: ops.exp(loss.variances[0].a)), 1.0),
    "VID: standard deviation": (VID, likelihood(spread=lambda loss, t: loss.variances[0](t) ** 2), 1.0),
    "NST: linear kernel": (NST, discrepancy(kernel=lambda k: k), 1.0),
    "NST: not normalised": (NST, discrepancy(unit=lambda a, axis: a), 1.0),
    "NST: cross term once": (NST, discrepancy(cross=1.0), 1.0),
    "NST: sums": (NST, discrepancy(total=ops.sum), 1.0),
    "NST: epsilon added": (NST, discrepancy(unit=added_epsilon), 6e-13),
    "OFD: no margin": (OFD, partial(margin=False), 1.0),
    "OFD: full distance": (OFD, partial(counted=lambda s, t: t == t), 1.0),
    "OFD: only the positive": (OFD, partial(counted=lambda s, t: t > 0), 1.0),
    "OFD: mean": (OFD, partial(total=ops.mean), 1.0),
    "OFD: not over 1000": (OFD, partial(over=1.0), 1.0),
    "OFD: statistics of inference": (OFD, {"project": in_inference}, 1.0),
}
SAME = {
    "Hint": (HINT, of_projected(lambda *a: all_of(ops.mean, squared(*a))), 1.0),
    "AT": (ATTENTION, attention_maps(), 7e-7),
    "VID": (VID, likelihood(), 1.0),
    "NST": (NST, discrepancy(), 6e-13),
    "OFD": (OFD, partial(), 1.0),
}


def mutated(loss, own):
    mutant = type("Mutant", (loss,), dict(own))
    return functools.partial(mutant, MARGINS) if loss is OverhaulDistillation else mutant


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_oracle_catches_mutants(mutant):
    (loss, oracle), own, scale = MUTANTS[mutant]
    with pytest.raises(AssertionError):
        follows(mutated(loss, own), oracle, scale=scale)


@pytest.mark.parametrize("name", SAME)
def test_the_unmutated_formulas_pass(name):
    (loss, oracle), own, scale = SAME[name]
    follows(mutated(loss, own), oracle, scale=scale)


@pytest.mark.parametrize("pair", [ATTENTION, NST, HINT, VID, OFD], ids=lambda pair: pair[0].__name__)
def test_the_oracle_catches_a_teacher_that_learns(pair):
    loss, oracle = pair
    with pytest.raises(AssertionError):
        follows(mutated(loss, {"__call__": learning_teacher}), oracle)


@pytest.mark.parametrize("pair", [ATTENTION, NST, VID], ids=lambda pair: pair[0].__name__)
def test_the_oracle_catches_maximum_pooling(pair, monkeypatch):
    loss, oracle = pair
    pool = functools.partial(ops.adaptive_max_pool, data_format="channels_last")
    monkeypatch.setattr(features, "_pooled", lambda x, size: pool(x, size))
    with pytest.raises(AssertionError):
        follows(loss, oracle, teacher=(3, 5, 4, 4))


def test_the_oracle_catches_stages_that_count_the_same():
    class Mutant(OverhaulDistillation):
        def compare(self, stage, teacher, student):
            return super().compare(stage, teacher, student) * 2.0 ** (1 - stage)

    with pytest.raises(AssertionError):
        later_stages_count_more(Mutant)
