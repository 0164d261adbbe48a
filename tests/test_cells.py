"""The audit's cells: the runs they ask for, their order and rates, which machine. Runs made up."""

import dataclasses

import pytest
from made_records import record

from curlora_lite.replication import __main__ as command
from curlora_lite.replication import cells, cluster, inputs, machine, profiles, records, sequence

# the rates at which made-up runs of a method end most accurate
BEST = {"head-only": 4e-3, "curlora": 1e-3, "lora": 2.5e-4, "lora-xs": 1e-3}
# runs of a part, counted by hand: of seed 0, of all its seeds
RUNS = {"table1": (8, 32), "frontier": (19, 57), "best": (4, 20), "basis": (10, 30)}
RUNS |= {"table2": (7, 13)}


def made(spec, best=BEST):
    acc = 0.7 if spec.learning_rate == best[spec.method] else 0.6
    found = record(spec, [[acc], [acc, acc], [acc, acc, acc]], (20.0, 21.0))
    return dataclasses.replace(found, version=sequence.VERSION, model_sha256="w")


def keep(results, specs, best=BEST):
    for spec in specs:
        path = records.runs_folder(spec.profile, results) / f"{spec.key}.json"
        records.save(made(spec, best), path)


def grid(results, *names, profile="smollm2", **given):
    return cells.grid(profile, cells.chosen(profile, names), results=results, **given)


def keys(*names, **given):
    return {spec.key for spec in grid(None, *names, **given)}


def rates(specs, *methods):
    return {spec.learning_rate for spec in specs if spec.method in methods}


@pytest.fixture
def tuned(tmp_path):
    for name in ("tune/head-only", "tune"):
        keep(tmp_path, grid(tmp_path, name))
    return tmp_path


def test_every_run_is_asked_for_once_and_seed_0_of_all_comes_first(tuned):
    for part, (first, every) in RUNS.items():
        specs = grid(tuned, part)
        assert (sum(spec.seed == 0 for spec in specs), len(specs)) == (first, every), part
    whole = grid(tuned, *RUNS)
    # the frontier has three seeds of each best, and of the bases Eq. 4 and LoRA-XS
    assert len(whole) == len(set(whole)) == 32 + 57 + 8 + 18 + 13
    assert [spec.seed for spec in whole] == sorted(spec.seed for spec in whole)
    texts = {(s.text_tokens, s.text_window) for s in whole if s.protocol.perplexity == "halves"}
    assert texts == {(65_536, 2048)} and {spec.precision for spec in whole} == {"bf16"}
    assert {(s.seed, s.profile) for s in grid(tuned, "table2", seeds=[2, 5])} == {(2, "smollm2")}
    with pytest.raises(ValueError, match="CELLS: got 'table3', expected one of .*tune/lora-xs"):
        grid(tuned, "table3")


def test_the_committed_runs_are_those_of_the_cells(committed):
    """Of Table 1 and of tuning all, of other parts none but theirs; as published, the profile's."""
    folders = (records.runs_folder(n, committed) for n in ("audit", "smollm2", "smollm2-tune"))
    audit, papers, tune = ({path.stem for path in runs.glob("*.json")} for runs in folders)
    assert audit == keys(profile="audit", fast="bf16")
    assert keys("together", "tune/head-only") <= tune <= keys("together", "tune")
    assert keys("table1") <= papers <= keys("table1", "frontier")
    adapters = {path.name for path in (committed / "smollm2" / "adapters").iterdir()}
    assert {s.key for s in grid(None, "table1", "frontier") if sequence._kept(s)} == adapters
    published = {s for s in grid(None, "table1") if s.protocol.lora_init == "authors"}
    assert published == set(profiles.grid("smollm2", "table1", fast="bf16"))
    assert {s.protocol.perplexity for s in grid(None, profile="audit-quick")} == {"first-tokens"}


def test_rates_stand_around_the_best_on_the_rows_for_tuning(tuned):
    tune, best, basis, frontier = (grid(tuned, p) for p in ("tune", "best", "basis", "frontier"))
    assert {(s.tune, s.profile, s.seed) for s in tune} == {(True, "smollm2-tune", 0)}
    heads = {(s.method, s.head_rate) for s in (*tune, *best, *basis, *frontier)}
    assert heads == {(m, None if m == "head-only" else 4e-3) for m in BEST}
    assert {(s.method, s.learning_rate) for s in best if s.seed == 4} == set(BEST.items())
    assert rates(basis, "lora-xs") == rates(basis, *BEST) == {2.5e-4, 1e-3}
    for method, best_first in {"curlora": 1e-3, "lora": 2.5e-4, "lora-xs": 1e-3}.items():
        assert rates(frontier, method) == {best_first * f for f in (1 / 16, 1 / 4, 1 / 2, 1, 4)}
    lora = [spec for spec in tune if spec.method == "lora"]
    for acc_best, end in (None, "6.25e-05"), (1e-3, "0.001"):  # of equals the lower
        keep(tuned, lora, {"lora": acc_best})
        with pytest.raises(ValueError, match=f"tune/lora is best at {end}, the end of its rates"):
            grid(tuned, "best/lora")
    path = records.runs_folder("smollm2-tune", tuned) / f"{tune[0].key}.json"
    records.save(dataclasses.replace(records.load(path), status="out of memory"), path)
    with pytest.raises(ValueError, match=r"no run of tune/head-only at \[0.00025\]; CELLS=tune"):
        grid(tuned, "frontier/lora")


@pytest.fixture
def computed(monkeypatch, tmp_path):
    """A checkout without results on `a machine`, which has bf16; specs as they are computed."""
    (tmp_path / "notebooks").mkdir()
    found = []
    for owner, name, value in (
        (records, "ROOT", tmp_path),
        (records, "commit", dict),
        (machine, "default_device", lambda: "cpu"),
        (machine, "cpu_name", lambda: "a machine"),
        (machine, "fast_precision", lambda: "bf16"),
        (inputs, "digests", lambda spec: ("w", {})),
        (command, "fetch", lambda options: None),
        (sequence, "run", lambda spec, *_: found.append(spec) or made(spec)),
    ):
        monkeypatch.setattr(owner, name, value)
    return found


def audit(*words):
    return command.main(["audit", "--profile", "smollm2", "--workers", "1", *words])


def test_the_command_tunes_first_and_goes_on_from_anybodys_runs(computed, monkeypatch, tmp_path):
    """The records name another working copy."""
    some = ("--cells", "best/lora,tune/lora,tune/head-only", "--seeds", "0")
    assert audit(*some) == 0
    assert [spec.method for spec in computed] == ["head-only"] * 5 + ["lora"] * 4
    assert [spec.tune for spec in computed] == [True] * 8 + [False]
    assert (tmp_path / "results" / "smollm2" / "runs.csv").exists()
    assert audit(*some) == 0 and len(computed) == 9
    assert audit("--cells", "best/lora") == 0 and len(computed) == 9 + 4
    monkeypatch.setattr(inputs, "digests", lambda spec: ("other weights", {}))
    assert audit(*some) == 0 and len(computed) == 13 + 9
    assert audit("--cells", "table2", "--seeds", "7") == 1


def test_a_seeds_runs_come_from_one_kind_of_processor(computed, monkeypatch, capsys):
    assert audit("--cells", "table1/head-only", "--seeds", "0") == 0
    monkeypatch.setattr(machine, "cpu_name", lambda: "another")
    assert audit("--cells", "table1", "--seeds", "0") == 1
    assert "was computed on a machine, and this is another: a seed's" in capsys.readouterr().err
    with pytest.raises(ValueError, match="and this is another"):  # nor on a cluster's node
        cluster.Task(None, "anybody", 1)(grid(None, "table1", seeds=[0])[1].to_dict())
    assert audit("--cells", "table1/head-only", "--seeds", "0,1") == 0  # seed 0 is there
    assert [spec.seed for spec in computed] == [0, 1]
    monkeypatch.setattr(sequence, "VERSION", sequence.VERSION + 1)  # all is computed anew
    assert audit("--cells", "table1/head-only", "--seeds", "0") == 0
    monkeypatch.setattr(machine, "fast_precision", lambda: "fp32")
    assert audit("--cells", "table1", "--seeds", "4") == 1 and len(computed) == 3
