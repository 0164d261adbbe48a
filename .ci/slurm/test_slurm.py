"""A grid on a real Slurm: a task and then a node are killed, and every record is as undisturbed."""

import threading

import pytest
import slurm_cluster
import slurm_grid

from curlora_lite.replication import cluster

pytest.importorskip("submitit", reason="the extra `replication` is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here():
    try:
        with slurm_cluster.cluster() as one:
            yield one
    except slurm_cluster.NoSlurmError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """Tiny models, here and in the jobs; a cache of its own."""
    monkeypatch.setenv("CURLORA_CACHE", str(tmp_path / "cache"))
    slurm_grid.tiny_jobs(monkeypatch.setattr, monkeypatch.setenv)


def test_a_preempted_run_is_queued_again_and_goes_on(here, tmp_path):
    """By submitit's signal, as Slurm sends it to a job that has to make room or is out of time."""
    grid = slurm_grid.specs((8,))[1:2]
    seconds = {}

    def preempt():
        seconds.update(slurm_grid.wait(slurm_grid.kept_by, None, grid, tmp_path, here))
        here.ask("scancel", "--signal=USR2", here.ask("squeue", "-h", "-o", "%i").strip())

    thread = threading.Thread(target=preempt, daemon=True)
    thread.start()
    record = cluster.run_grid(grid, tmp_path, own=True)[0]
    thread.join()
    assert seconds == {grid[0].key: record.stages[0]["training"]["seconds"]}
    (log,) = cluster.folder(tmp_path).glob("*.out")
    assert log.read_text().count("Starting with JobEnvironment") == 2


def test_a_killed_task_and_a_killed_node_change_no_number(here, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    grid = slurm_grid.specs((8,))
    expected = slurm_grid.undisturbed(grid, tmp_path / "here")
    found, what = slurm_grid.killed(grid, tmp_path / "there", here)
    assert found == expected and len(found) == 3
    assert what["processes of tasks"] == 1 and what["processes of a node"] >= 4
    assert what["runs killed"] == what["of these gone on from their checkpoint"] == 2
    assert "submitted again (1 of at most 3 times)" in capfd.readouterr().err
    for path in cluster.folder(tmp_path / "there").iterdir():
        assert b"hf_canary" not in path.read_bytes()
