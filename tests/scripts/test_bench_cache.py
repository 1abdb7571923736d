"""scripts/bench/cache: its bytes are those of files, and of the formulas in the guide."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from distill import cache

SPEC = importlib.util.spec_from_file_location(
    "bench_cache", Path(__file__).parents[2] / "scripts" / "bench" / "cache.py"
)
bench = importlib.util.module_from_spec(SPEC)
sys.modules["bench_cache"] = bench  # for its dataclasses
SPEC.loader.exec_module(bench)

IMAGENET, TOKENS = bench.PROBLEMS


@pytest.mark.parametrize(
    ("name", "of_images", "of_tokens"),
    [
        ("Dense()", 4 * 1000, 4 * 128_256),
        ('Dense("float16")', 2 * 1000, 2 * 128_256),
        ("TopK(64), one temperature", 64 * (2 + 4) + 4, 64 * (4 + 4) + 4),
        ("Sampled(64)", 64 * 2 + 4, 64 * 4 + 4),
    ],
)
def test_the_bytes_of_large_sets(name, of_images, of_tokens, tmp_path):
    target = bench.TARGETS[name]
    assert bench.needed(IMAGENET, target) == 2_562_334 * (of_images + 4)
    assert bench.needed(TOKENS, target) == 10**9 * (of_tokens + 4)
    small, header = bench.Problem("small", 1000, 64, 64), 1024
    logits = np.random.default_rng(0).normal(size=(64, 1000)).astype("float32")
    cache.record(
        lambda x: logits, np.zeros((64, 1)), tmp_path / "cache", batch_size=64, targets=target, verbose=0
    )
    written = cache.inspect(tmp_path / "cache").bytes
    assert 0 < written - bench.needed(small, target) <= header


def test_every_target_is_timed():
    tiny = bench.Problem("tiny", 100, 64, 64)
    for target in bench.TARGETS.values():
        recording, looking = bench.seconds(tiny, target, 0.01)
        assert recording > 0
        assert looking > 0
    assert [bench.duration(one) for one in (3.2, 600, 7200 * 1000)] == ["3 s", "10 min", "2,000 h"]
