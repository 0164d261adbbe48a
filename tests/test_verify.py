"""Records computed again: equal bit for bit, off by more than was measured, chosen by time."""

import copy
import math

import pytest
from small_runs import small_grid

from curlora_lite.replication import grids, profiles, records, spread, verify
from curlora_lite.replication.profiles import RunSpec

MEASURED = {
    "conditions": {
        "one thread": {"kind": None, "deviations": {"accuracy": 9.0}},
        "two threads": {"kind": "rounding", "deviations": {"loss": 0.25, "perplexity": 0.01}},
        "AVX2": {"kind": "rounding", "deviations": {"loss": 0.5}},
        "dropout": {"kind": "machine", "deviations": {"loss": 0.1, "accuracy": 0.05}},
    }
}


@pytest.fixture
def run(tiny):
    """A finished LoRA run of the tiny GPT-2."""
    (record,) = grids.run_grid(small_grid("table2", methods=["lora"]), tiny, workers=1)
    return record


def test_a_spec_comes_back_from_its_record():
    for profile, chosen in profiles.PROFILES.items():
        for table in chosen.tables:
            for spec in profiles.grid(profile, table):
                assert RunSpec.from_dict(spec.to_dict()) == spec


def test_the_same_again_is_equal_bit_for_bit(run, tiny):
    (again,) = grids.run_grid(small_grid("table2", methods=["lora"]), tiny / "again", workers=1)
    assert again.seconds != run.seconds  # times do not count
    compared = verify.compare("key", run, again, {})
    assert (compared.how, compared.held) == ("bit for bit", "yes")
    # by hand: 3 stages with 3 losses, scores 1 + 2 + 3 of three numbers each; of each projection a
    # norm and, of LoRA's geometry, three numbers
    norms = sum(len(stage["norms"]) for stage in run.stages)
    assert compared.numbers == 1 + 4 + 4 + 2 * 2 + 3 * (1 + 3) + 4 * norms + 6 * 3


def changed(run, what, by, **place):
    """A copy of the run whose first `what` is off by so much; provenance changed by `place`."""
    other = copy.deepcopy(run)
    other.provenance |= place
    if what == "loss":
        other.stages[0]["training"]["losses"][0] += by
    elif what == "perplexity":
        other.perplexity["final"]["perplexity"] *= 1 + by
    elif what == "steps":
        other.stages[0]["training"]["steps"] += 1
    elif what == "geometry":
        next(iter(other.stages[0]["geometry"].values()))["shift"] *= 1 + by
    elif what == "answers":  # so many of ten
        score = other.stages[0]["scores"]["mrpc"]
        flipped = "".join(str(1 - int(answer)) for answer in score["answers"][:by])
        score["answers"] = flipped + score["answers"][by:]
    return other


@pytest.mark.parametrize(
    ("what", "by", "place", "how", "held"),
    [
        ("loss", 1e-7, {}, "bit for bit", "no"),
        ("loss", 0.9, {"threads": 7}, "rounding", "yes"),  # twice 0.5, of AVX2
        ("loss", 1.1, {"threads": 7}, "rounding", "no"),
        ("perplexity", 0.019, {"threads": 7}, "rounding", "yes"),
        ("perplexity", 0.021, {"threads": 7}, "rounding", "no"),
        ("loss", 0.9, {"device": "another"}, "machine", "yes"),
        ("loss", math.nan, {"device": "another"}, "machine", "no"),
        ("steps", 0, {"device": "another"}, "machine", "no"),
        ("answers", 3, {"device": "another"}, "machine", "yes"),  # of 10, twice 0.15 of dropout's
        ("answers", 4, {"device": "another"}, "machine", "no"),
        ("answers", 1, {"threads": 7}, "rounding", "yes"),  # one row always may
        ("answers", 2, {"threads": 7}, "rounding", "no"),
        ("geometry", 0.015, {"device": "another"}, "machine", "yes"),
        ("geometry", 0.021, {"device": "another"}, "machine", "no"),
        ("geometry", 0.015, {"threads": 7}, "rounding", "not judged"),  # no spread of it measured
    ],
)
def test_tolerances_are_twice_what_was_measured(run, what, by, place, how, held):
    measured = copy.deepcopy(MEASURED)
    measured["conditions"]["dropout"]["deviations"] |= {"answers": 0.15, "geometry": 0.01}
    other = changed(run, what, by, **place)
    compared = verify.compare("key", run, other, {"small-gpt2 fp32": measured})
    assert (compared.how, compared.held) == (how, held)


def test_without_a_measured_spread_only_equality_is_judged(run):
    other = changed(run, "loss", 1e-7, device="another")
    assert verify.compare("key", run, other, {}).held == "not judged"
    same = changed(run, "nothing", 0, device="another")
    assert verify.compare("key", run, same, {}).held == "yes"


def test_tolerances_by_hand():
    assert spread.tolerances(MEASURED, "rounding", 150) == {
        "exact": 0.0,
        "accuracy": 1 / 150,
        "answers": 1 / 150,
        "perplexity": 0.02,
        "loss": 1.0,
    }
    assert spread.tolerances(MEASURED, "machine", 150)["accuracy"] == 0.1
    assert spread.tolerances(MEASURED, "machine", 5)["accuracy"] == 0.2


def test_a_number_that_one_side_lacks_is_infinitely_far():
    old, new = {"a": ("loss", 1.0), "b": ("norm", 2.0)}, {"a": ("loss", 1.5), "c": ("loss", 1.0)}
    assert spread.deviations(old, new) == {"loss": math.inf, "norm": math.inf}
    assert spread.deviations({"a": ("norm", 2.0)}, {"a": ("norm", 2.2)}) == {
        "norm": pytest.approx(0.1)
    }


def test_the_summary_takes_the_largest_of_all_runs_on_a_model(run):
    """LoRA and a second run, under two conditions; the second was left out of one of them."""
    second = copy.deepcopy(run)
    second.provenance["device"] = "the second's"
    found = {
        "one thread": {"a": run, "b": second},
        "two threads": {"a": changed(run, "loss", 0.25), "b": changed(second, "loss", 0.5)},
        "dropout drawn otherwise": {"a": changed(run, "geometry", 0.5)},
    }
    ((model, one),) = spread.summary(found).items()
    assert (model, one["runs"], one["rows"]) == ("small-gpt2 fp32", ["a", "b"], 10)
    seen = {name: c["deviations"] for name, c in one["conditions"].items()}
    assert seen["two threads"]["loss"] == pytest.approx(0.5)
    assert seen["dropout drawn otherwise"]["geometry"] == pytest.approx(0.5)
    assert seen["dropout drawn otherwise"]["loss"] == 0
    assert set(seen["one thread"]) == set(spread.KINDS) and not any(seen["one thread"].values())
    text = spread.table({model: one}).markdown()
    assert "| small-gpt2 fp32 | two threads | rounding | 0 | 0 | 0 | 0.5 | 0 | 0 |" in text


def test_what_is_measured_are_runs_that_there_are():
    """Every model and precision of the committed records, each from the base condition on."""
    specs = {at: spread._spec(*at) for at, _ in spread.RUNS}
    assert len({spec.key for spec in specs.values()}) == len(spread.RUNS)
    for _, conditions in spread.RUNS:
        assert set(conditions) <= set(spread.CONDITIONS) and "one thread" in conditions
    measured = {(spec.model.name, spec.precision) for spec in specs.values()}
    for profile in ("embedded", "audit", "smollm2"):
        for path in records.runs_folder(profile).glob("*.json"):
            spec = records.load(path).spec
            assert (spec["model"]["name"], spec["precision"]) in measured


@pytest.fixture
def kept(tmp_path):
    """Records of made-up durations in a results folder."""
    specs = profiles.grid("embedded", "table2", ranks=[8, 16, 24])
    for spec, seconds in zip(specs, (35, 64, 66, 68, 65, 67, 69), strict=True):
        record = records.RunRecord(spec.to_dict(), seconds=float(seconds))
        records.save(record, records.runs_folder("embedded", tmp_path) / f"{spec.key}.json")
    return tmp_path, [spec.key for spec in specs]


def test_by_default_one_of_each_method_and_more_while_there_is_time(kept):
    """35 + 64 + 65 (CURLoRA-16), then 66 (CURLoRA-8): 230 of 270; 67 more would be too long."""
    folder, keys = kept
    assert list(verify.chosen("embedded", results=folder)) == [keys[0], keys[1], keys[4], keys[2]]


def test_by_default_an_adapter_on_each_other_model_too(kept):
    """Table 1's quickest is head only; of its model a run with an adapter is wanted, if it fits."""
    folder, keys = kept
    specs = profiles.grid("embedded", "table1", ranks=[8])
    runs = records.runs_folder("embedded", folder)
    for spec, seconds in zip(specs, (1, 200, 104), strict=True):
        records.save(
            records.RunRecord(spec.to_dict(), seconds=float(seconds)), runs / f"{spec.key}.json"
        )
    # 1 + 64 + 65 for the methods, 104 for the model, 35 more: 269 of 270
    wanted = [specs[0].key, keys[1], keys[4], specs[2].key, keys[0]]
    assert list(verify.chosen("embedded", results=folder)) == wanted


def test_the_committed_records_are_covered_by_default():
    found = verify.chosen("embedded")
    assert {run.spec["method"] for run in found.values()} == set(profiles.METHODS)
    models_adapted = {
        run.spec["model"]["name"] for run in found.values() if run.spec["method"] != "head-only"
    }
    assert models_adapted == {"small-gpt2", "smollm2-135m"}
    assert sum(run.seconds for run in found.values()) <= verify.CORE_SECONDS


def test_by_name_and_by_share(kept):
    folder, keys = kept
    assert list(verify.chosen("embedded", keys=keys[2:3], results=folder)) == keys[2:3]
    third = verify.chosen("embedded", share=0.3, results=folder)
    assert len(third) == 3 and third.keys() == verify.chosen("embedded", None, 0.3, folder).keys()
    assert len(verify.chosen("embedded", share=1, results=folder)) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "embeded"}, "profile: got 'embeded'"),
        ({"keys": ["table9"]}, r"VERIFY: no record \['table9'\]; there are table2-"),
        ({"share": 0}, "SHARE: got 0, expected a number above 0"),
        ({"share": math.nan}, "SHARE: got nan"),
        ({"profile": "smollm2"}, "profile: smollm2 has no records"),
    ],
)
def test_bad_choices(kept, arguments, message):
    with pytest.raises(ValueError, match=message):
        verify.chosen(**{"profile": "embedded", "results": kept[0], **arguments})


def test_verify_computes_in_a_folder_of_its_own(tiny, monkeypatch):
    specs = small_grid("table2", methods=["head-only", "lora"])
    found = grids.run_grid(specs, tiny, workers=1)
    kept = {spec.key: record for spec, record in zip(specs, found, strict=True)}
    before = sorted(tiny.rglob("*"))
    run_grid = grids.run_grid
    asked = []

    def alone(specs, folder, workers, threads):  # worker processes would not have tiny models
        asked.append((workers, threads))
        return run_grid(specs, folder, workers=1)

    monkeypatch.setattr(grids, "run_grid", alone)
    monkeypatch.setattr(verify.memory, "cores", lambda: 2)
    compared = verify.verify(kept)
    threads = found[0].provenance["threads"]
    assert asked == [(max(1, min(2 // threads, 2)), threads)]
    assert [one.held for one in compared] == ["yes", "yes"]
    assert sorted(tiny.rglob("*")) == before
    text = verify.table("embedded", compared).markdown()
    assert text.count("| bit for bit |") == 2
