"""One small network of every family of keras.applications: pruned, it is the original with zeros; and it lives on.

Networks are made small by the arguments of the families; where these do not go far enough, by their first blocks, with
a head of our own. scripts/checks/applications does the same for the networks as they are.
"""

import re

import keras
import numpy as np
import pytest
from keras import applications, layers

# Families whose sizes are arguments, which Keras exports for ConvNeXt and others only by the names of their members.
from keras.src.applications.convnext import ConvNeXt
from keras.src.applications.densenet import DenseNet
from keras.src.applications.efficientnet import EfficientNet
from keras.src.applications.efficientnet_v2 import EfficientNetV2
from keras.src.applications.inception_resnet_v2 import conv2d_bn, inception_resnet_block
from keras.src.applications.nasnet import NASNet
from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1, stack_residual_blocks_v2

from distill import exports, pruning

CLASSES = 3
SMALL = {"weights": None, "classes": CLASSES, "input_shape": (32, 32, 3)}
BODY = {"weights": None, "include_top": False, "input_shape": (32, 32, 3)}


def first_blocks(model, last):
    """Up to the layer of that name."""
    x = layers.Flatten()(model.get_layer(last).output)
    return keras.Model(model.input, layers.Dense(CLASSES, activation="softmax")(x))


def resnet(stack, preact):
    def stacks(x):
        return stack(stack(x, 8, 2, stride1=1, name="conv2"), 16, 2, name="conv3")

    return ResNet(stacks, preact=preact, use_bias=True, **SMALL)


def inception_resnet():
    inputs = keras.Input((8, 8, 3))
    x = conv2d_bn(inputs, 16, 3)
    for i, kind in enumerate(("block35", "block17", "block8")):
        x = inception_resnet_block(x, scale=0.2, block_type=kind, block_idx=i)
    outputs = layers.Dense(CLASSES, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs)


# What makes the network, and the share of its parameters that is left.
FAMILIES = {
    "Xception": (
        lambda: first_blocks(applications.Xception(**BODY | {"input_shape": (71, 71, 3)}), "add_2"),
        0.37,
    ),
    "VGG": (lambda: first_blocks(applications.VGG16(**BODY), "block3_pool"), 0.36),
    "ResNet": (lambda: resnet(stack_residual_blocks_v1, preact=False), 0.47),
    "ResNetV2": (lambda: resnet(stack_residual_blocks_v2, preact=True), 0.47),
    "Inception": (
        lambda: first_blocks(applications.InceptionV3(**BODY | {"input_shape": (75, 75, 3)}), "mixed3"),
        0.36,
    ),
    "InceptionResNet": (inception_resnet, 0.36),
    "MobileNet": (lambda: applications.MobileNet(alpha=0.25, **SMALL), 0.39),
    "MobileNetV2": (
        lambda: first_blocks(applications.MobileNetV2(alpha=0.35, **BODY), "block_6_project_BN"),
        0.47,
    ),
    "MobileNetV3": (
        lambda: first_blocks(applications.MobileNetV3Small(alpha=0.25, **BODY), "expanded_conv_4_add"),
        0.46,
    ),
    "DenseNet": (lambda: DenseNet([2, 1, 1, 1], **SMALL), 0.37),
    "NASNet": (
        lambda: first_blocks(
            NASNet(penultimate_filters=96, num_blocks=1, stem_block_filters=8, **BODY),
            "reduction_concat_reduce_1",
        ),
        0.57,
    ),
    "EfficientNet": (lambda: EfficientNet(0.25, 0.25, 32, **SMALL), 0.41),
    "EfficientNetV2": (lambda: EfficientNetV2(0.25, 0.25, 32, name="efficientnetv2-b0", **SMALL), 0.4),
    "ConvNeXt": (lambda: ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), **SMALL), 0.76),
}
LIVES_ON = {"MobileNetV3", "DenseNet", "ConvNeXt"}  # half a minute more for the others


ALWAYS = {"EfficientNet"}  # scripts/checks/applications has them all


def small_network(build):
    model = build()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            continue  # computes with what it was built with
        for variable in layer.weights:
            if len(variable.shape) < 2:  # biases of 0, scales of 1 or 1e-6 would hide what is cut wrongly
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def test_every_family_is_here():
    """Members of a family differ by their depth and by what follows its name."""
    members = [re.sub(r"\d{2,}", "", name) for name in dir(applications) if name[0].isupper()]
    families = sorted(FAMILIES, key=len, reverse=True)
    found = {next((family for family in families if name.startswith(family)), name) for name in members}
    assert found == set(FAMILIES)


@pytest.mark.parametrize(
    "family",
    [pytest.param(one, marks=[] if one in ALWAYS else pytest.mark.slow) for one in FAMILIES],
)
@pytest.mark.slow
def test_a_family(family, tmp_path):
    build, left = FAMILIES[family]
    model = small_network(build)
    small = pruning.prune_channels(
        model, 0.4, importance=pruning.structured.importance.random(0), round_to=1, verify=True
    )
    assert small.count_params() / model.count_params() == pytest.approx(left, abs=0.02)
    if family not in LIVES_ON:
        return
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype("float32")
    before = small(x, training=False)
    small.compile("sgd", "categorical_crossentropy")
    small.fit(x, np.eye(CLASSES)[:2], verbose=0)
    assert np.abs(small(x) - before).max() > 1e-3
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again(x), small(x))
    exports.export(small, tmp_path / "small.tflite")
    np.testing.assert_allclose(
        exports.Exported(tmp_path / "small.tflite").predict(x), small(x), rtol=1e-3, atol=1e-5
    )
