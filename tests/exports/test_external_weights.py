"""ONNX files whose weights lie in other files, as PyTorch writes them."""

import numpy as np
import onnx
import pytest

from distill import cache, studies
from distill.exports import Exported
from distill.files._exported import contents
from distill.files._stored import files_of
from distill.studies._cell_work import Config
from distill.studies._run import _file


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def external(folder, kernel, location="m.onnx.data"):
    """y = x · kernel + 1, with both weights in another file, as PyTorch writes them, or in a file each.

    The 1 is a constant of a branch.
    """
    floats = onnx.TensorProto.FLOAT
    x, y = (
        onnx.helper.make_tensor_value_info(name, floats, [None, size])
        for name, size in zip("xy", kernel.shape, strict=True)
    )
    one = onnx.numpy_helper.from_array(np.ones(kernel.shape[1], "float32"), "one")
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["z"], value=one)],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("z", floats, [kernel.shape[1]])],
    )
    true = onnx.helper.make_tensor("true", onnx.TensorProto.BOOL, [], [True])
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["x", "kernel"], ["product"]),
            onnx.helper.make_node("If", ["true"], ["added"], then_branch=branch, else_branch=branch),
            onnx.helper.make_node("Add", ["product", "added"], ["y"]),
        ],
        "g",
        [x],
        [y],
        [onnx.numpy_helper.from_array(kernel, "kernel"), true],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (folder / "m.onnx").unlink(missing_ok=True)
    if location is not None:
        (folder / location).unlink(missing_ok=True)
    path = folder / "m.onnx"
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=location is not None,
        location=location,
        size_threshold=0,
        convert_attribute=True,
    )
    return path


def test_weights_beside_an_onnx_file_belong_to_it(tmp_path):
    kernel, x = normal(40, 30), normal(5, 40)
    path, beside = external(tmp_path, kernel), tmp_path / "m.onnx.data"
    file = Exported(path)
    np.testing.assert_allclose(file.predict(x), x @ kernel + 1, rtol=1e-4, atol=1e-5)
    assert file.files == [path, beside]
    assert file.bytes == path.stat().st_size + beside.stat().st_size > 4 * kernel.size
    # Such weights are part of what is compared, and of what a cache was recorded from.
    found = studies.compare_models({"a": path, "b": path}, (x, np.arange(5)), resamples=100)
    assert found.costs["a"]["file_bytes"] == file.bytes
    cache.record(file, x, tmp_path / "cache", verbose=0)
    cache.record(Exported(external(tmp_path, kernel)), x, tmp_path / "cache", verbose=0)
    with pytest.raises(ValueError, match="the weights of the teacher"):
        cache.record(Exported(external(tmp_path, kernel + 1)), x, tmp_path / "cache", verbose=0)
    weight = next(one for one in contents(path).weights if one.name == "kernel")
    np.testing.assert_array_equal(weight.values(), kernel + 1)
    beside.unlink()
    with pytest.raises(FileNotFoundError, match=r"m\.onnx\.data, in which weights of"):
        contents(path)
    with pytest.raises(
        FileNotFoundError, match=r"m\.onnx\.data, in which weights of .*m\.onnx lie\. Copy it together"
    ):
        files_of(path)


def test_weights_of_an_onnx_file_lie_in_its_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    path = external(tmp_path / "inner", normal(4, 3))
    content = path.read_bytes()
    assert content.count(b"m.onnx.data") > 1  # also that of the branch
    path.write_bytes(content.replace(b"m.onnx.data", b"../onnx.dat"))
    (tmp_path / "onnx.dat").write_bytes(b"0" * 1000)
    with pytest.raises(
        ValueError, match=r"must lie in its folder\. Received: .*m\.onnx, with weights in .*onnx\.dat"
    ):
        files_of(path)


def test_a_file_for_each_weight(tmp_path):
    """Those of branches too."""
    path = external(tmp_path, normal(40, 30), location=None)
    whole, *beside = Exported(path).files
    assert whole == path
    assert sorted(file.name for file in beside) == ["kernel", "one"]
    assert Exported(path).bytes == sum(file.stat().st_size for file in tmp_path.iterdir()) > 4 * 40 * 30


def test_a_damaged_onnx_file_is_named(tmp_path):
    path = external(tmp_path, normal(4, 3))
    path.write_bytes(path.read_bytes()[:-7])
    for read in (files_of, contents):
        with pytest.raises(ValueError, match=r"^This file is damaged\. Received: .*m\.onnx: ") as caught:
            read(path)
        assert str(caught.value).count("This file") == 1


def test_an_arm_returns_one_file(tmp_path):
    cell = studies.Cell(study="s", arm="mine", seed=0, config=Config({}, {}, {}, "", False))
    with pytest.raises(
        ValueError, match=r"from arm 'mine', with weights in m\.onnx\.data\. Save it as one file"
    ):
        _file(external(tmp_path, normal(4, 3)), cell, tmp_path)
    onnx.save_model(onnx.load(tmp_path / "m.onnx"), tmp_path / "one.onnx")
    assert _file(tmp_path / "one.onnx", cell, tmp_path) == tmp_path / "model.onnx"
