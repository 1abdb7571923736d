"""Sweeps: of many like cases some run by default, and the others with the slow tests."""

import pytest
from conftest import evenly

RUN = []


@pytest.mark.parametrize(
    ("count", "kept", "expected"),
    [(10, 4, {0, 3, 6, 9}), (30, 2, {0, 29}), (5, 1, {0}), (3, 8, {0, 1, 2}), (1, 3, {0})],
)
def test_cases_lie_evenly(count, kept, expected):
    assert evenly(count, kept) == expected


@pytest.mark.sweep(3)
@pytest.mark.parametrize("case", range(5))
def test_a_case_is_slow_unless_it_is_kept(case, request):
    """Run in either way, each case has the mark that it should have."""
    assert (request.node.get_closest_marker("slow") is not None) == (case in (1, 3))
    RUN.append(case)


def test_the_kept_ones_were_run_and_the_slow_ones_only_if_asked_for(request):
    if request.config.option.markexpr == "not slow" and not request.config.option.keyword:
        assert RUN == [0, 2, 4]
