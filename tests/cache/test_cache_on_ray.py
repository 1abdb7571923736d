"""Recording on a Ray cluster of two nodes on this machine."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from distill import cache
from distill.cache._recording import record_part
from distill.cache._shards import present

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
KERNEL = np.random.default_rng(3).normal(size=(6, 5)).astype("float32")
GIVEN = {"targets": cache.Sampled(3, from_logits=True), "batch_size": 8, "shard_size": 10, "name": "linear"}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_what_cannot_be_asked_of_workers_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="workers must be an integer of at least 1. Received: workers=0"):
        cache.record_on_ray(lambda: (None, X), tmp_path, workers=0)
    with pytest.raises(ValueError, match=r"Workers share the shards.*Received: \['shards', 'verbose'\]"):
        cache.record_on_ray(lambda: (None, X), tmp_path, workers=2, shards=[0], verbose=1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "distill\[ray\]"'):
        cache.record_on_ray(lambda: (None, X), tmp_path, workers=2)


def test_parts_are_all_shards_once(tmp_path):
    """What workers do, here without Ray: five shards, seven parts, of which two have none."""
    asked = []

    def linear(batch):
        asked.append(len(batch))
        return batch @ KERNEL

    cache.record(linear, X, tmp_path / "whole", verbose=0, **GIVEN)
    found = set()
    for number in (6, 1, 0, 5, 2, 4, 3):
        asked.clear()
        record_part(linear, X, tmp_path / "cache", number, 7, **GIVEN)
        added = set(present(tmp_path / "cache")) - found
        assert added == ({number} if number < 5 else set())
        assert (len(asked) == 1) == (number >= 5)  # the first batch, which is always compared
        found |= added
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_workers_write_what_one_process_does_and_one_that_was_killed_goes_on(tmp_path, monkeypatch):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    # Names of their own, so that workers need nothing of this file.
    x, kernel, log, kill = X, KERNEL, str(tmp_path / "asked"), signal.SIGKILL

    def make():
        def linear(batch):
            with open(log, "a") as file:
                file.write(f"{os.getpid()} {batch.tobytes().hex()[:16]}\n")
            killed = Path(log + "-killed")
            if np.array_equal(batch, x[32:40]) and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), kill)
            return batch @ kernel

        return linear, x

    cache.record(lambda batch: batch @ KERNEL, X, tmp_path / "whole", verbose=0, **GIVEN)
    cache.record(lambda batch: batch @ KERNEL, X, tmp_path / "cache", shards=[1], verbose=0, **GIVEN)
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        answers = cache.record_on_ray(make, tmp_path / "cache", workers=2, **GIVEN)
        asked = [line.split() for line in Path(log).read_text().splitlines()]
        again = cache.record_on_ray(make, tmp_path / "cache", workers=2, **GIVEN)
        compared = Path(log).read_text().splitlines()[len(asked) :]
        with pytest.raises(Exception, match="shard_size: recorded 10, now 12"):
            cache.record_on_ray(make, tmp_path / "cache", workers=1, **{**GIVEN, "shard_size": 12})
    finally:
        cluster.shutdown()
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")
    assert Path(log + "-killed").exists()
    assert len({process for process, _ in asked}) >= 2
    third = X[32:40].tobytes().hex()[:16]
    assert [batch for _, batch in asked].count(third) >= 2  # once before the kill, and again
    assert len(compared) == 2  # the first batch, by each
    assert {line.split()[1] for line in compared} == {X[:8].tobytes().hex()[:16]}
    np.testing.assert_array_equal(again.look_up([47])["output.ids"], answers.look_up([47])["output.ids"])
