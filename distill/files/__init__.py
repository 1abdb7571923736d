"""Models and weights in files: read from whatever wrote them, checked first, written in one step."""

from distill.files._fitting import Difference, Loaded
from distill.files._loading import load_model
from distill.files._saved_model import InferenceOnly
from distill.files._saving import save_model, save_weights
from distill.files._weights import load_weights

__all__ = [
    "Difference",
    "InferenceOnly",
    "Loaded",
    "load_model",
    "load_weights",
    "save_model",
    "save_weights",
]
