"""A file's name in a model's place is an error that says how to load it, wherever a model is taken."""

import numpy as np
import pytest
from backend import BACKEND
from conftest import dense_net

import distill
from distill import cost, files, pruning, quantization, training

FILE, X = "net.keras", np.ones((4, 6), "float32")
TAKE_A_MODEL = {
    "prune_channels": lambda: pruning.prune_channels(FILE, 0.5),
    "prune_layers": lambda: pruning.prune_layers(FILE, 1, None),
    "cost.calls_of": lambda: cost.calls_of(FILE),
    "cost.macs": lambda: cost.macs(FILE),
    "cost.parameters": lambda: cost.parameters(FILE),
    "cost.profile": lambda: cost.profile(FILE),
    "cost.sizes": lambda: cost.sizes(FILE),
    "export": lambda: distill.export(FILE, "net.tflite"),
    "load_weights": lambda: distill.load_weights(FILE, "net.weights.h5"),
    "save_model": lambda: files.save_model(FILE, "copy.keras"),
    "save_weights": lambda: files.save_weights(FILE, "copy.weights.h5"),
    "quantize_aware": lambda: quantization.quantize_aware(FILE, X),
    "strip": lambda: quantization.strip(FILE),
    "ensemble": lambda: training.ensemble([dense_net(4), FILE]),
}


@pytest.mark.parametrize("name", TAKE_A_MODEL)
def test_a_file_is_no_model(name):
    if BACKEND != "tensorflow" and name in ("export", "quantize_aware"):
        pytest.skip("TensorFlow only")
    with pytest.raises(TypeError, match=f"^{name} takes a keras.Model. Received: 'net.keras'. .*load_model"):
        TAKE_A_MODEL[name]()


def test_a_file_neither_teaches_nor_learns():
    for teacher, student in ((FILE, dense_net(4)), (dense_net(4), FILE)):
        with pytest.raises(ValueError, match="Received: 'net.keras'.* Load a file with distill.load_model"):
            distill.Distiller(teacher, student, distill.SoftTargets())
