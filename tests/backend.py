"""What the tests ask of the backend Keras runs on: numpy values, gradients, compiled code."""

import shutil

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
as_numpy = keras.ops.convert_to_numpy
as_tensor = keras.ops.convert_to_tensor


def only_on(*backends, reason):
    """Skips a test, or a case of one, on all other backends."""
    return pytest.mark.skipif(BACKEND not in backends, reason=f"{' and '.join(backends)} only: {reason}")


def since_keras(version, *, reason):
    """Skips a test, or a case of one, on versions of Keras before this one."""
    older = tuple(map(int, keras.__version__.split(".")[:2])) < tuple(map(int, version.split(".")))
    return pytest.mark.skipif(older, reason=f"since Keras {version}: {reason}")


# For parametrize: a dtype, and the marks of a case that compiles by jit_compile=True.
FLOAT64 = pytest.param(
    "float64",
    marks=only_on("tensorflow", "torch", reason="JAX has float64 if the whole process was started with it"),
)
TORCH_COMPILES = [
    pytest.mark.skipif(BACKEND == "torch" and not shutil.which("g++"), reason="torch.compile calls g++"),
    # torch 2.13 warns of its own import, and of how Keras reads a gradient and defines one where Dynamo traces it.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning"),
]


def dtype_of(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def value_and_gradients(function, *arrays, variables=()):
    """A scalar function of arrays and of Keras variables: its value, and its gradient to each of them.

    As numpy; `None` where no gradient flows. JAX knows no such thing: there, a gradient of zeros is `None`.
    """
    value, gradients = _GRADIENTS[BACKEND](function, [as_tensor(array) for array in arrays], list(variables))
    return as_numpy(value), [None if gradient is None else as_numpy(gradient) for gradient in gradients]


def compiled(function, variables=()):
    """The function as a training step would run it; what it reads from `variables` may change between calls."""
    return _COMPILED[BACKEND](function, list(variables))


def _tensorflow_gradients(function, tensors, variables):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    return value, tape.gradient(value, [*tensors, *(variable.value for variable in variables)])


def _jax_gradients(function, tensors, variables):
    import jax

    def stateless(tensors, values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*tensors)

    values = [variable.value for variable in variables]
    value, gradients = jax.value_and_grad(stateless, argnums=(0, 1))(tensors, values)
    return value, [gradient if np.any(gradient) else None for side in gradients for gradient in side]


def _torch_gradients(function, tensors, variables):
    import torch

    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    return value, torch.autograd.grad(
        value, [*leaves, *(variable.value for variable in variables)], allow_unused=True
    )


def _tensorflow_compiled(function, variables):
    import tensorflow as tf

    return tf.function(function)


def _jax_compiled(function, variables):
    import jax

    @jax.jit
    def stateless(values, *arrays):
        # As Keras' JAX trainer does: to XLA, a variable that is not passed in is a constant.
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*arrays)

    return lambda *arrays: stateless([variable.value for variable in variables], *arrays)


def _torch_compiled(function, variables):
    return function  # as Keras' torch trainer does unless it is told to compile


_GRADIENTS = {"tensorflow": _tensorflow_gradients, "jax": _jax_gradients, "torch": _torch_gradients}
_COMPILED = {"tensorflow": _tensorflow_compiled, "jax": _jax_compiled, "torch": _torch_compiled}
