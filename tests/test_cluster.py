"""Grids on Slurm, without one: what is asked of it, and what becomes of jobs that fail."""

import math
import os
import types
from pathlib import Path

import endurance
import pytest

from curlora_lite.replication import __main__, cluster, grids, profiles, records

pytest.importorskip("submitit", reason="the extra `replication` is not installed")
TESTS = Path(__file__).parent


def test_what_is_asked_follows_from_the_specs():
    """A core, and memory by hand: weights of 0.54 GB, 32 rows of 64 tokens through 30 layers, of
    31,724 bytes each, 1.95 GB, libraries 1.2 GB, and a quarter. Mistral: 38.5 GB and a quarter."""
    small = cluster.needs(profiles.grid("embedded", "table2"))
    assert (small.gpus, small.memory, small.cpus, small.partition) == (0, 5, 1, None)
    cost = max(spec.cost() for spec in profiles.grid("embedded", "table2"))
    assert small.minutes == 15 + math.ceil(3 * cost * 1.1e-5 / 60)
    large = cluster.needs(profiles.grid("mistral-7b", "table1"))
    assert (large.gpus, large.memory, large.cpus) == (1, 49, 4)
    half = cluster.needs(profiles.grid("mistral-7b", "table1", precision="bf16"))
    assert half.memory < large.memory
    assert 3 < (large.minutes - 15) / (half.minutes - 15) <= 4  # fp32 is slower there


NONE = [(["--executor", "slurm"], "EXECUTOR: slurm needs sbatch, squeue and srun")]
NONE += [(["--partition", "gpu"], "PARTITION: is of EXECUTOR=slurm")]


@pytest.mark.parametrize(("given", "said"), NONE)
def test_without_slurm(monkeypatch, capsys, given, said):
    monkeypatch.setenv("PATH", "/nowhere")
    assert __main__.main(["reproduce", *given]) == 1
    assert said in capsys.readouterr().err


class FakeJobs:
    """Slurm, acted: each run's jobs end as told, one state after the other; `ok` leaves a record.

    told: rank -> how its jobs end; `ok` for those that are not told. The controller does not
    answer the first few times.
    """

    threads, unanswered = 1, 3

    def __init__(self, folder, told):
        self.folder, self.told = folder, dict(told)
        self.submitted, self.arrays, self.now = [], [], {}

    def submit(self, task, specs):
        self.arrays.append([spec.rank for spec in specs])
        return [self._job(spec, f"{len(self.arrays)}_{i}") for i, spec in enumerate(specs)]

    def _job(self, spec, number):
        end = (self.told.get(spec.rank) or ["ok"]).pop(0)
        error, line = None, "-" * 22
        if ": " in end:
            error = f"trace:\n{line}\nTraceback (most recent call last):\n{end}\n{line}\nlogs"
        pickle = TESTS if error else TESTS / "nothing"
        paths = types.SimpleNamespace(result_pickle=pickle, stderr=f"{number}.err")
        job = types.SimpleNamespace(job_id=number, paths=paths, exception=lambda: error)
        self.now[number] = iter(["PENDING", "RUNNING"]), (spec, "FAILED" if error else end)
        self.submitted.append(number)
        return job

    def earlier(self, spec, states):
        return None

    def states(self):
        if self.submitted and self.unanswered:
            self.unanswered -= 1
            return None
        return {number: self._state(number) for number in self.now}

    def _state(self, number):
        before, (spec, end) = self.now[number]
        state = next(before, end)
        if state in ("ok", "out of memory"):
            status = "finished" if state == "ok" else state
            record = records.RunRecord(spec.to_dict(), status=status, message="too large")
            path = records.runs_folder(spec.profile, self.folder) / f"{spec.key}.json"
            records.save(record, path)
            return "COMPLETED"
        return state


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Runs a grid of four runs on jobs that end as told; returns them and the error, if any."""
    monkeypatch.setattr(cluster, "POLL", 0)
    monkeypatch.setattr(cluster, "SETTLE", 0.05)

    def run(told):
        jobs = FakeJobs(tmp_path / "results", told)
        try:
            found = cluster.run_grid(endurance.made_up_grid(4), tmp_path / "results", jobs=jobs)
        except grids.RunFailedError as error:
            return jobs, str(error)
        assert [record.spec["rank"] for record in found] == [1, 2, 3, 4]
        return jobs, None

    return run


ALL, KEY = [1, 2, 3, 4], endurance.made_up_grid(2)[1].key
FAILED = {2: ["NODE_FAIL", "PREEMPTED", "ok"], 4: ["TIMEOUT", "ok"]}
AGAIN = {3: ["OSError: no room"] * 9, 1: ["OSError: a", "OSError: b", "ok"]}


TOLD = [
    (FAILED, [ALL, [2, 4], [2]], None, "PREEMPTED; submitted again (2 of at most 3 times)"),
    ({2: ["PREEMPTED"] * 9}, [ALL, [2], [2], [2]], f"{KEY}: PREEMPTED", ""),
    # an error that comes again is not tried a third time
    (AGAIN, [ALL, [1, 3], [1]], ": OSError: no room", "OSError: no room; log: 2_1.err"),
    # what would come again is not tried
    ({3: ["CANCELLED"]}, [ALL], "CANCELLED by somebody", ""),
    ({3: ["OUT_OF_MEMORY"]}, [ALL], "OUT_OF_MEMORY ask for more with MEMORY", ""),
    ({3: ["out of memory"]}, [ALL], "out of memory: too large", ""),
    # it may still come to be seen, on a network file system; some time later it is given up
    ({3: ["COMPLETED", "ok"]}, [ALL, [3]], None, "without a record; submitted again"),
]


@pytest.mark.parametrize(("told", "arrays", "error", "said"), TOLD)
def test_what_becomes_of_jobs_that_fail(follow, capsys, told, arrays, error, said):
    jobs, raised = follow({rank: list(ends) for rank, ends in told.items()})
    assert jobs.arrays == arrays
    if error:
        assert raised.startswith("1 of 4 runs gave no result: ") and raised.endswith(error)
    else:
        assert raised is None
    assert said in capsys.readouterr().err


def test_one_array_and_all_records(follow):
    assert follow({})[0].arrays == [ALL]
    assert follow({})[0].arrays == []  # all there already


def test_an_interrupt_leaves_the_jobs_and_says_how_to_end_them(follow, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        follow({})
    said = capsys.readouterr().err
    assert "the same command follows them again" in said and "scancel 1\n" in said


SBATCH = """#!/bin/sh
cp "$1" {folder}/script
[ -e {folder}/refuse ] && echo "sbatch: error: invalid partition specified: gpu" >&2 && exit 1
echo Submitted batch job 7
"""


@pytest.fixture
def acted(tmp_path, monkeypatch):
    """Stand-ins for Slurm's commands; sbatch keeps the script, squeue prints the file `states`."""
    scripts = {"sbatch": SBATCH, "srun": "#!/bin/sh\n", "squeue": "#!/bin/sh\ncat {folder}/states"}
    for name, text in scripts.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(folder=tmp_path))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(cluster, "POLL", 0)
    return tmp_path


def jobs_of(folder, **given):
    specs = endurance.made_up_grid(2)
    needs = cluster.needs(specs, gpus=1, memory=48, minutes=90, partition="gpu")
    return specs, cluster.Jobs(cluster.folder(folder / "results"), needs, **given)


def test_the_script_that_slurm_gets(acted, monkeypatch):
    """In a checkout whose path has a space, too: it is quoted, as a shell would."""
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    monkeypatch.setattr(records, "ROOT", acted / "my own")
    specs, jobs = jobs_of(acted, at_once=1)
    made = jobs.submit(cluster.Task(acted / "results", True, 4), specs)
    assert [job.job_id for job in made] == ["7_0", "7_1"]
    lines = (acted / "script").read_text().splitlines()
    asked = {"array=0-1%1", "gpus-per-node=1", "mem=48GB", "time=90", "partition=gpu", "requeue"}
    asked |= {"cpus-per-task=4", f"chdir='{acted}/my own'", "job-name=curlora_lite"}
    assert {f"#SBATCH --{option}" for option in asked} <= set(lines)
    for path in jobs.folder.iterdir():
        assert b"hf_canary" not in path.read_bytes()


def test_jobs_of_an_earlier_command_are_followed(acted, capsys):
    """Submitted once, interrupted; called again while they wait: nothing is submitted."""
    specs, jobs = jobs_of(acted)
    jobs.submit(None, specs)
    (acted / "script").unlink()
    (acted / "states").write_text("7_0 RUNNING\n7_1 PENDING\n")
    _, later = jobs_of(acted)
    assert [later.earlier(spec, later.states()).job_id for spec in specs] == ["7_0", "7_1"]
    for spec in specs:
        path = records.runs_folder(spec.profile, acted / "results") / f"{spec.key}.json"
        records.save(records.RunRecord(spec.to_dict()), path)
    (acted / "states").write_text("7_0 COMPLETED\n7_1 COMPLETED\n")
    assert later.earlier(specs[0], later.states()) is None
    assert not (acted / "script").exists()


def test_slurms_refusals(acted):
    """Of the jobs, and of an answer: squeue fails, as there is no file `states`."""
    specs, jobs = jobs_of(acted)
    (acted / "refuse").touch()
    with pytest.raises(ValueError, match="Slurm refuses the jobs: sbatch: error: invalid part"):
        jobs.submit(None, specs)
    assert jobs.states() is None
    with pytest.raises(ValueError, match="Slurm does not answer"):
        cluster.run_grid(specs, acted / "results", jobs=jobs)
