"""A grid on a real Slurm: a task and then a node are killed, and every record is as undisturbed."""

import pytest
import slurm_cluster
import slurm_grid

from curlora_lite import cluster

pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here():
    try:
        with slurm_cluster.cluster() as one:
            yield one
    except slurm_cluster.NoSlurmError as error:
        pytest.skip(str(error))


def test_a_killed_task_and_a_killed_node_change_no_number(here, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    grid = slurm_grid.specs((8,))
    expected = slurm_grid.undisturbed(grid, tmp_path / "here")
    found, what = slurm_grid.killed(grid, tmp_path / "there", here)
    assert found == expected and len(found) == 3
    assert what["processes of tasks"] == 1 and what["processes of a node"] >= 4
    assert what["runs killed"] == what["of these gone on from their checkpoint"] == 2
    assert "submitted again (1 of at most 3 times)" in capfd.readouterr().err
    for path in cluster.folder(grid, tmp_path / "there").iterdir():
        assert b"hf_canary" not in path.read_bytes()
