"""Oracles of losses that train layers: their arithmetic again in float64, on the weights of the loss."""

import numpy as np
import reference
from backend import as_numpy, as_tensor
from keras import ops

MARGINS = [-0.3, -1.0, 0.0, -0.1]
# For the contrastive loss: the classes of ten examples, the ids of a batch, and the rows drawn for each of the ten.
CLASSES = np.array([1, 0, 1, 2, 0, 2, 2, 1, 0, 1])
IDS = np.array([6, 1, 9, 4, 0, 3], "int32")
DRAWN = np.random.default_rng(5).integers(0, 10, (10, 5)).astype("int32")


def linear(values, kernel, bias=0.0):
    kernel = np.asarray(kernel, "float64").reshape(values.shape[-1], -1)
    return values @ kernel + bias


def batch_norm(values, gamma, beta):
    axes = tuple(range(values.ndim - 1))
    mean, variance = values.mean(axis=axes), values.var(axis=axes)
    return gamma * (values - mean) / np.sqrt(variance + 1e-5) + beta


def weights_of(loss):
    """The trained weights of the loss, in float64."""
    trained = [variable for layer in loss.layers for variable in layer.trainable_variables]
    return [as_numpy(variable).astype("float64") for variable in trained]


def hint(loss, teacher, student, weights=None):
    """The regressor between maps of one size, the dense layer of vectors, or the identity."""
    weights = weights_of(loss) if weights is None else weights
    projected = np.asarray(student, "float64")
    if weights:
        kernel, bias, *norm = weights
        projected = linear(projected, kernel, bias)
        projected = np.maximum(batch_norm(projected, *norm), 0) if norm else projected
    return reference.hint(teacher, projected)


def vid(loss, teacher, student, weights=None):
    teacher, student = reference.float64(teacher, student)
    if teacher.ndim == 4:
        pairs = [reference.to_smaller(t, s) for t, s in zip(teacher, student, strict=True)]
        teacher, student = (np.array(side) for side in zip(*pairs, strict=True))
    first, second, third, a = weights or weights_of(loss)
    mu = linear(np.maximum(linear(np.maximum(linear(student, first), 0), second), 0), third)
    return reference.vid(teacher, mu, a)


def ofd(loss, teacher, student, weights=None):
    weights = weights_of(loss) if weights is None else weights
    connected = np.asarray(student, "float64")
    if weights:
        kernel, *norm = weights
        connected = batch_norm(linear(connected, kernel), *norm)
    return reference.ofd([teacher], [connected], loss.margins)


def attention(loss, teacher, student):
    return reference.attention_transfer(teacher, student, loss.p, paper=loss.paper_form)


def embedded(loss, teacher, student):
    """The embeddings of both sides, for the contrastive loss."""
    embeddings = []
    for x, layer in ((teacher, loss._embed_teacher), (student, loss._embed_student)):
        z = linear(reference.flat(x), *(as_numpy(weight).astype("float64") for weight in layer.weights))
        embeddings.append(z / np.linalg.norm(z, axis=-1, keepdims=True))
    return embeddings


def remembered(loss, ids):
    """Both banks of the contrastive loss, and the rows in them of the examples and of those drawn for each."""
    banks = [as_numpy(bank).astype("float64") for bank in (loss._memory.teacher, loss._memory.student)]
    # Banks hold the examples sorted by class.
    own = np.argsort(np.argsort(CLASSES, kind="stable"))[ids]
    return banks, np.concatenate([own[:, None], as_numpy(loss._draw(ids))], axis=1)


def crd(loss, teacher, student, ids):
    banks, places = remembered(loss, ids)
    constants = [float(as_numpy(z)) for z in (loss._memory.student_scale, loss._memory.teacher_scale)]
    rows = [bank[places] for bank in banks]
    return reference.crd(*embedded(loss, teacher, student), *rows, *constants, len(CLASSES))


def known_draws(loss):
    """Fixes the draws of the contrastive loss, and the constants that its first batch would set."""
    loss._draw = lambda ids: ops.take(as_tensor(DRAWN), ids, axis=0)
    loss._memory.student_scale.assign(30.0)
    loss._memory.teacher_scale.assign(60.0)
