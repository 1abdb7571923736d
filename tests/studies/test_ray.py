"""Cells on a Ray cluster of two nodes on this machine."""

import json
import sys
import threading
import time

import pytest

from distill import studies
from tests.studies.tiny import run, slow, study_of, teacher, trained


def test_a_cell_needs_something():
    for needs in ({"cpus": 0}, {"gpus": -1}, {"memory": 0.0}):
        with pytest.raises(ValueError, match="at least one core, 0 GPUs or more"):
            studies.Ray(**needs)


def test_ray_that_is_not_installed_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "distill\[ray\]"'):
        run(study_of((teacher, {})), tmp_path, engine=studies.Ray())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_node_that_is_lost_in_the_middle_changes_no_result(tmp_path, monkeypatch):
    cluster_utils = pytest.importorskip("ray.cluster_utils")

    def made():
        study = study_of((teacher, {}), (trained, {}), (slow, {}), seeds=3)
        study.compare("trained", "teacher")
        return study

    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = []

    def lose(node):
        begun = []
        while len(begun) < 2:
            time.sleep(0.1)
            begun = list(tmp_path.glob("cluster/tiny/cells/slow-*/begun"))
        lost.extend(begun)
        cluster.remove_node(node, allow_graceful=False)

    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        losing = threading.Thread(target=lose, args=(node,), daemon=True)
        losing.start()
        found = run(made(), tmp_path / "cluster", engine=studies.Ray())
        losing.join(10)
    finally:
        cluster.shutdown()
    local = run(made(), tmp_path / "local", jobs=2)

    assert len(lost) == 2
    for measure in local.measures:
        for arm in local.arms:
            assert found.arm(arm.name).values(measure) == arm.values(measure)
    cells = sorted((tmp_path / "local" / "tiny" / "cells").iterdir())
    assert len(cells) == 9
    for cell in cells:
        other = json.loads((tmp_path / "cluster" / "tiny" / "cells" / cell.name / "result.json").read_text())
        same = json.loads((cell / "result.json").read_text())
        assert {**other, "seconds": 0} == {**same, "seconds": 0}
