"""Multiply-adds of known networks against published figures."""

import keras
import pytest

from distill import cost

# Network -> arguments, what was published, in millions, and where. All count a multiply-add once, of convolutions and
# dense layers alone. [K] is the documentation of keras.applications (of MobileNetV2 that of tf.keras), [S] that of the
# TensorFlow models it was ported from, [T] torchvision's, whose networks are the same but for what is left out here:
# its ResNets have their strides elsewhere, and its EfficientNetB2 is fed other images.
PUBLISHED = {
    "MobileNet": ({"alpha": 0.75}, 325, "Howard et al. 2017, arXiv:1704.04861, table 6"),
    "MobileNetV2": ({}, 300, "[K], and Sandler et al. 2018, arXiv:1801.04381, table 4"),
    "EfficientNetB0": ({}, 386, "[T]; Tan and Le 2019, arXiv:1905.11946, table 2 rounds to 390"),
}
PUBLISHED_LARGE = {
    "ConvNeXtBase": ({}, 15_355, "[T]; Liu et al. 2022, arXiv:2201.03545, table 1 rounds to 15,400"),
    "ConvNeXtSmall": ({}, 8_684, "[T]; there 8,700"),
    "ConvNeXtTiny": ({}, 4_456, "[T]; there 4,500"),
    "DenseNet121": ({}, 2_834, "[T]"),
    "DenseNet169": ({}, 3_360, "[T]"),
    "DenseNet201": ({}, 4_291, "[T]"),
    "EfficientNetB1": ({}, 687, "[T]; table 2 of Tan and Le 700"),
    "EfficientNetB2": ({}, 1_000, "table 2 of Tan and Le"),
    "InceptionResNetV2": ({}, 13_200, "Zoph et al. 2018, arXiv:1707.07012, table 2"),
    "InceptionV3": ({}, 5_720, "Zoph et al., table 2"),
    "MobileNetV3Large": ({"input_shape": (224, 224, 3)}, 217, "[K]"),
    "NASNetMobile": ({}, 564, "[S], and Zoph et al., table 3"),
    "Xception": ({}, 8_380, "Zoph et al., table 2"),
    # Table 1 of He et al. 2015, arXiv:1512.03385, has 3,800 for ResNet50, of which 3,858 are counted here.
    "ResNet101": ({}, 7_600, "He et al., table 1"),
    "ResNet152": ({}, 11_300, "He et al., table 1"),
    "VGG16": ({}, 15_470, "[T]"),
    "VGG19": ({}, 19_632, "[T]; He et al., section 3.3: 19,600"),
}


def millions_of(name, arguments):
    return cost.macs(getattr(keras.applications, name)(weights=None, **arguments)) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.sweep(1)
def test_macs_are_those_published(name):
    arguments, millions, _ = PUBLISHED[name]
    assert millions_of(name, arguments) == pytest.approx(millions, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_LARGE)
def test_macs_of_large_networks_are_those_published(name):
    arguments, millions, _ = PUBLISHED_LARGE[name]
    assert millions_of(name, arguments) == pytest.approx(millions, rel=0.01)
