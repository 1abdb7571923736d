"""A cell is measured after its last epoch and after its best one, and its network is left as after the last."""

import dataclasses
import json

import keras
import numpy as np
from conftest import dense_net

from distill import data
from distill.studies import Cell, Surroundings, fit_and_measure


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 1.0


class WorseLast(keras.callbacks.Callback):
    """Negates the head before the last of three epochs, so that right answers become wrong."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            head = self.model.get_layer("head")
            head.set_weights([-weight for weight in head.get_weights()])


def test_the_last_epoch_and_the_best_on_dev_are_kept_apart(batch, tmp_path):
    import tensorflow as tf

    x, y = batch
    network = dense_net(8, activation=None, name="network")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"])
    y = keras.ops.convert_to_numpy(network(x)).argmax(axis=1)  # at first, all answers are right
    examples = tf.data.Dataset.from_tensor_slices((x, y))
    first = network.get_weights()
    result = fit_and_measure(
        network,
        network,
        data.batches(examples, 8),
        cell=Cell(study="study", arm="arm", seed=3, config=Config()),
        directory=tmp_path,
        surroundings=Surroundings(wandb="disabled"),
        tags=[],
        epochs=3,
        dev_batches=data.batches(examples, 40),
        dev=(x, y),
        test=(x, y),
        teacher=None,
        callbacks=[WorseLast()],
        also=lambda: {"seen": [weight.tolist() for weight in network.get_weights()[-1:]]},
    )
    assert result["selected_epoch"] == 0
    for split in ("dev", "test"):
        assert result[split]["selected"]["accuracy"] == 1
        assert result[split]["last"]["accuracy"] < 0.5
    saved = keras.models.load_model(tmp_path / "teacher.keras")
    for found, kept, before in zip(network.get_weights(), saved.get_weights(), first, strict=True):
        np.testing.assert_array_equal(found, kept)
        np.testing.assert_array_equal(np.abs(found), np.abs(before))
    assert np.abs(network.get_weights()[-2] - first[-2]).max() > 0
    assert result["seen"] == [network.get_weights()[-1].tolist()]
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["val_accuracy"] for line in logged] == [1.0, 1.0, result["dev"]["last"]["accuracy"]]
