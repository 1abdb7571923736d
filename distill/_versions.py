"""The versions of Keras that the tests pass with; importing this module warns of another."""

import warnings

import keras

TESTED = ("3.13", "3.14", "3.15")

if ".".join(keras.__version__.split(".")[:2]) not in TESTED:
    warnings.warn(
        f"distill is tested with Keras {TESTED[0]} to {TESTED[-1]}. Found: Keras {keras.__version__}. distill uses "
        f'parts of Keras that may change between versions. If something fails, install "keras=={TESTED[-1]}.*".',
        stacklevel=3,  # where distill is imported
    )
