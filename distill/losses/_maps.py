"""What losses on feature maps share: pooling to one size, norms, and means per example."""

from keras import ops

from distill._types import Tensor
from distill.losses._shapes import Shape, shape_error


def mean_of_example(values: Tensor) -> Tensor:
    """Returns the mean over the features of each example, or of each token: masks and weights may be per token."""
    rank = len(values.shape)
    return ops.mean(values, axis=-1 if rank == 3 else tuple(range(1, rank)))


def unit(values: Tensor, axis: int) -> Tensor:
    """Returns x / max(‖x‖₂, 1e-12) along an axis."""
    return values / root(ops.sum(ops.square(values), axis=axis, keepdims=True))


def root(square: Tensor) -> Tensor:
    """Returns max(√x, 1e-12); the maximum comes first because the root has no finite gradient at 0."""
    return ops.sqrt(ops.maximum(square, 1e-24))


def smaller_size(teacher: Shape, student: Shape) -> Shape:
    """Returns the smaller height and the smaller width of two maps; `None` if either is unknown."""
    sizes = zip(teacher[1:3], student[1:3], strict=True)
    return tuple(None if a is None or b is None else min(a, b) for a, b in sizes)


def pool_to_smaller(loss: str, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Returns both maps, average-pooled to the smaller height and the smaller width; `loss` is for the error."""
    size = smaller_size(tuple(teacher.shape), tuple(student.shape))
    if None in size:
        raise shape_error(
            f"{loss} pools the larger map to the smaller one, so both sizes must be known",
            tuple(teacher.shape),
            tuple(student.shape),
            "Give the models' inputs, or the examples of the data set, a fixed size.",
        )
    return _pooled(teacher, size), _pooled(student, size)


def _pooled(features: Tensor, size: Shape) -> Tensor:
    if tuple(features.shape[1:3]) == size:
        return features
    return ops.adaptive_average_pool(features, size, data_format="channels_last")
