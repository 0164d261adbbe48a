"""Records computed again: equal bit for bit, off by more than was measured, chosen by time."""

import copy
import math

import pytest
from small_runs import small_grid

from curlora_lite import grids, profiles, records, spread, verify
from curlora_lite.profiles import RunSpec

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
    # by hand: 3 stages with 3 losses, 6 norms or so, scores 1 + 2 + 3 of three numbers each
    norms = sum(len(stage["norms"]) for stage in run.stages)
    assert compared.numbers == 1 + 4 + 4 + 2 * 2 + 3 * (1 + 3) + norms + 6 * 3


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
    elif what == "answers":
        score = other.stages[0]["scores"]["mrpc"]
        flipped = str(1 - int(score["answers"][0]))
        score["answers"] = flipped + score["answers"][1:]
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
        ("answers", 0, {"device": "another"}, "machine", "yes"),  # 1 of 10, twice 0.05 of dropout's
        ("answers", 0, {"threads": 7}, "rounding", "no"),  # more than one row in 150
    ],
)
def test_tolerances_are_twice_what_was_measured(run, what, by, place, how, held):
    measured = copy.deepcopy(MEASURED)
    measured["conditions"]["dropout"]["deviations"]["answers"] = 0.05
    other = changed(run, what, by, **place)
    compared = verify.compare("key", run, other, {"small-gpt2 fp32": measured})
    assert (compared.how, compared.held) == (how, held)


def test_without_a_measured_spread_only_equality_is_judged(run):
    other = changed(run, "loss", 1e-7, device="another")
    assert verify.compare("key", run, other, {}).held == "not judged"
    same = changed(run, "nothing", 0, device="another")
    assert verify.compare("key", run, same, {}).held == "yes"


def test_tolerances_by_hand():
    assert spread.tolerances(MEASURED, "rounding") == {
        "exact": 0.0,
        "accuracy": 1 / 150,
        "answers": 1 / 150,
        "perplexity": 0.02,
        "loss": 1.0,
        "norm": 0.0,
    }
    assert spread.tolerances(MEASURED, "machine")["accuracy"] == 0.1


def test_a_number_that_one_side_lacks_is_infinitely_far():
    old, new = {"a": ("loss", 1.0), "b": ("norm", 2.0)}, {"a": ("loss", 1.5), "c": ("loss", 1.0)}
    assert spread.deviations(old, new) == {"loss": math.inf, "norm": math.inf}
    assert spread.deviations({"a": ("norm", 2.0)}, {"a": ("norm", 2.2)}) == {
        "norm": pytest.approx(0.1)
    }


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
