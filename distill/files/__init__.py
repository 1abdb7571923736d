"""Models and weights in files: read from whatever wrote them, checked first, written in one step."""

from distill.files.fitting import Difference, Loaded
from distill.files.loading import load_model
from distill.files.saved_model import InferenceOnly
from distill.files.saving import save_model, save_weights
from distill.files.weights import load_weights

__all__ = [
    "Difference",
    "InferenceOnly",
    "Loaded",
    "load_model",
    "load_weights",
    "save_model",
    "save_weights",
]
