"""Float64 numpy loops that follow the published definitions, written without a look at the library."""

import math

import numpy as np


def softmax(row):
    row = [float(v) for v in row]
    top = max(row)
    exponents = [math.exp(v - top) for v in row]
    return [e / sum(exponents) for e in exponents]


def log_softmax(row):
    row = [float(v) for v in row]
    top = max(row)
    log_sum = top + math.log(sum(math.exp(v - top) for v in row))
    return [v - log_sum for v in row]


def soft_targets(teacher, student, temperature):
    """T² Σ_c p_c (log p_c − log q_c) for each row; Hinton et al. 2015, section 2."""
    values = []
    for t, s in zip(np.asarray(teacher, "float64"), np.asarray(student, "float64"), strict=True):
        log_p, log_q = log_softmax(t / temperature), log_softmax(s / temperature)
        values.append(temperature**2 * sum(math.exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True)))
    return np.array(values)


def log_sigmoid(value):
    return -math.log1p(math.exp(-value)) if value >= 0 else value - math.log1p(math.exp(value))


def bernoulli_soft_targets(teacher, student, temperature):
    """T² times the sum over labels of KL between two yes-or-no distributions, for each row."""
    values = []
    for t, s in zip(np.asarray(teacher, "float64"), np.asarray(student, "float64"), strict=True):
        total = 0.0
        for a, b in zip(t / temperature, s / temperature, strict=True):
            for sign in (1.0, -1.0):
                log_p, log_q = log_sigmoid(sign * a), log_sigmoid(sign * b)
                total += math.exp(log_p) * (log_p - log_q)
        values.append(temperature**2 * total)
    return np.array(values)


def gradient(function, point, step=1e-6):
    """Central differences of a scalar function of an array."""
    point = np.asarray(point, "float64")
    result = np.zeros_like(point)
    for index in np.ndindex(point.shape):
        up, down = point.copy(), point.copy()
        up[index] += step
        down[index] -= step
        result[index] = (function(up) - function(down)) / (2 * step)
    return result


def cross_entropy(probabilities, labels):
    """−log of each row's probability of its label."""
    return np.array([-math.log(row[label]) for row, label in zip(probabilities, labels, strict=True)])
