"""What a loss trains takes part in the student's training."""

import keras
import numpy as np
import pytest
from backend import as_numpy, only_on
from keras import layers

from distill import Distiller
from distill.losses import DistillationLoss


class Projected(DistillationLoss):
    """Compares through a projector whose layers depend on `training`."""

    teacher_layer_name = student_layer_name = "hidden"

    def build(self, teacher, student):
        projector = keras.Sequential(
            [layers.Dense(teacher.shape[-1], activity_regularizer="l2"), layers.BatchNormalization()]
        )
        projector.build(student.shape)
        self.layers.append(projector)

    def call(self, teacher, student):
        return keras.ops.mean(keras.ops.square(self.layers[0](student) - teacher), axis=-1)


@only_on(
    "tensorflow",
    "torch",
    reason="Keras' JAX trainer drops what is passed to add_loss beside the model's call",
)
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")  # of the head
def test_what_a_loss_trains_is_in_training_and_its_penalties_count(teacher, student, batch):
    loss = Projected(name="projected")
    distiller = Distiller(teacher, student, loss, student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    dense, norm = loss.layers[0].layers
    hidden = np.maximum(batch[0] @ student.get_weights()[0] + student.get_weights()[1], 0)
    projected = hidden @ dense.get_weights()[0]
    logs = distiller.train_on_batch(batch[0], return_dict=True)
    np.testing.assert_allclose(
        as_numpy(norm.moving_mean), 0.01 * projected.mean(axis=0), rtol=1e-4, atol=1e-7
    )
    penalty = logs["loss"] - logs["projected"]
    expected = 0.01 * np.square(projected).sum()
    if not keras.__version__.startswith(
        "3.13."
    ):  # which adds the penalties of a batch up; later ones take the mean
        expected /= len(hidden)
    np.testing.assert_allclose(penalty, expected, rtol=1e-3)


def test_a_loss_that_leaves_its_layers_unbuilt_is_refused(teacher, student):
    class Lazy(Projected):
        def build(self, teacher, student):
            self.layers.append(layers.Dense(4, name="lazy"))

    with pytest.raises(ValueError, match=r"build leaves \['lazy'\] without weights"):
        Distiller(teacher, student, Lazy(name="lazy"))
