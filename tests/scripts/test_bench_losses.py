"""scripts/bench/losses times every loss, against a plain formulation that agrees with it."""

import dataclasses
import functools
import importlib.util
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
from backend import BACKEND

from distill import losses

if BACKEND != "tensorflow":
    pytest.skip("the plain formulations are TensorFlow", allow_module_level=True)

SPEC = importlib.util.spec_from_file_location(
    "bench_losses", Path(__file__).parents[2] / "scripts" / "bench" / "losses.py"
)
bench = importlib.util.module_from_spec(SPEC)
sys.modules["bench_losses"] = bench  # for its dataclasses
SPEC.loader.exec_module(bench)

EMBEDDINGS = ((6, 5), (6, 5))
MAPS = ((4, 3, 3, 4), (4, 3, 3, 4))
HALF = ((4, 3, 3, 4), (4, 3, 3, 2))
TINY = {
    (name, tiny): (case, tiny)
    for name, case in bench.CASES.items()
    for teacher, student in case.pairs
    for tiny in [EMBEDDINGS if len(teacher) == 2 else MAPS if teacher == student else HALF]
}


def check(case, pair):
    both = bench.formulations(case, pair)
    bench.require_agreement("case", *bench.both_results(both, both.ours, both.plain))


@pytest.mark.parametrize(("case", "pair"), TINY.values(), ids=[f"{name} {pair}" for name, pair in TINY])
@pytest.mark.slow
def test_both_formulations_agree(case, pair):
    check(case, pair)


def test_every_public_loss_is_timed():
    public = [getattr(losses, name) for name in losses.__all__]
    public = [one for one in public if inspect.isclass(one) and issubclass(one, losses.DistillationLoss)]
    assert set(public) - {losses.DistillationLoss} == {type(case.make(4)) for case in bench.CASES.values()}


def test_what_disagrees_is_not_timed():
    case = bench.CASES["SoftTargets"]
    for wrong in (
        functools.partial(case.plain, temperature=4.01),
        lambda *sides: case.plain(*sides) + 0.1 * bench.mean_squared(*sides),
        lambda *sides: bench.tf.stop_gradient(case.plain(*sides)),
        lambda *sides: float("nan") * case.plain(*sides),
    ):
        with pytest.raises(
            ValueError, match="Only formulations that agree can be timed. Received: case, whose"
        ):
            check(dataclasses.replace(case, plain=wrong), EMBEDDINGS)


@pytest.mark.parametrize("jit", ["xla", "graph"])
@pytest.mark.parametrize(("limit", "status", "words"), [(1e-9, 1, "1 of 1"), (1e9, 0, "0 of 1")])
def test_the_exit_status_tells_of_a_slow_loss(monkeypatch, capsys, jit, limit, status, words):
    case = dataclasses.replace(bench.CASES["LogitMSE"], pairs=(EMBEDDINGS,))
    monkeypatch.setattr(bench, "CASES", {"LogitMSE": case})
    monkeypatch.setattr(bench, "LIMIT", limit)
    assert bench.main(bench.Bench(only="logit", jit=jit, rounds=5, seconds=0.01)) == status
    assert words in capsys.readouterr().out


def test_the_interval_is_about_the_median():
    ratios = np.array([1.0, 1.1, 0.9, 1.2, 0.8] * 10)
    ratio, low, high = bench.median_interval(ratios)
    assert 0.9 <= low <= ratio == 1.0 <= high <= 1.1
