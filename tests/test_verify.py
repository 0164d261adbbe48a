"""Records computed again: equal bit for bit, off by more than was measured, chosen by time."""

import collections
import copy
import json
import math
import unittest.mock

import pandas as pd
import pytest
from small_runs import small_grid, stand_in

from curlora_lite.replication import grids, profiles, records, sequence, verify

MODEL = "smollm2-135m-fused fp32"
# what may differ: made up, with answers and accuracy below and above one row of ten
MEASURED = {
    MODEL: {
        "rounding": {"accuracy": 0.05, "answers": 0.0, "loss": 1.0, "perplexity": 0.02},
        "machine": {"accuracy": 0.2, "answers": 0.3, "loss": 2.0, "perplexity": 0.02, "norm": 0.1},
    }
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished LoRA run of the tiny fused model, computed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURLORA_CACHE", str(tmp_path_factory.mktemp("cache")))
        stand_in(patch.setattr)
        return sequence.run(*small_grid("table2", methods=["lora"]))


def test_the_same_again_is_equal_bit_for_bit(run, tiny):
    again = sequence.run(*small_grid("table2", methods=["lora"]))
    assert again.seconds != run.seconds  # times do not count
    said = verify.compare(run, again, {})
    assert (said["compared"], said["holds"], said["deviation"]) == ("bit for bit", "yes", "none")
    # by hand: 3 stages of 3 steps, the scores 1 + 2 + 3, two layers of one projection
    kinds = collections.Counter(kind for kind, _ in verify.plain(run).values())
    del kinds["exact"]
    assert kinds == {"loss": 9, "accuracy": 6, "answers": 6, "norm": 6, "perplexity": 2}


def move(values, key, by, relative=False):
    values[key] += by * values[key] if relative else by


def flip(score, by):
    """So many of ten answers."""
    flipped = "".join(str(1 - int(answer)) for answer in score["answers"][:by])
    score["answers"] = flipped + score["answers"][by:]


CHANGES = {  # of a record and its first stage
    "nothing": lambda run, stage, by: None,
    "loss": lambda run, stage, by: move(stage["training"]["losses"], 0, by),
    "perplexity": lambda run, stage, by: move(run.perplexity["final"], "perplexity", by, True),
    "norm": lambda run, stage, by: move(stage["norms"], next(iter(stage["norms"])), by, True),
    "accuracy": lambda run, stage, by: move(stage["scores"]["mrpc"], "accuracy", by),
    "answers": lambda run, stage, by: flip(stage["scores"]["mrpc"], by),
    "steps": lambda run, stage, by: move(stage["training"], "steps", 1),
    "rows": lambda run, stage, by: run.data["mrpc"].update(train="0" * 64),
    "weights": lambda run, stage, by: setattr(run, "model_sha256", "0" * 64),
    "precision": lambda run, stage, by: run.spec.update(precision="bf16"),
    "no answers": lambda run, stage, by: [
        score.pop("answers") for stage in run.stages for score in stage["scores"].values()
    ],
    "a norm less": lambda run, stage, by: stage["norms"].popitem(),
}


def changed(run, what, by=None, **place):
    """A copy of the run, its first `what` off by so much; provenance changed by `place`."""
    other = copy.deepcopy(run)
    other.provenance |= place
    CHANGES[what](other, other.stages[0], by)
    return other


THREADS, DEVICE = {"threads": 7}, {"device": "another"}


@pytest.mark.parametrize(
    ("what", "by", "place", "how", "held"),
    [
        # where all agrees, no number may move at all
        ("loss", 1e-7, {}, "bit for bit", "no"),
        ("norm", 1e-9, {}, "bit for bit", "no"),
        ("answers", 1, {}, "bit for bit", "no"),
        # other threads, versions or packing: sums in another order
        ("loss", 0.9, THREADS, "rounding", "yes"),
        ("loss", 0.9, {"rows": "another"}, "rounding", "yes"),
        ("loss", 0.9, {"packages": {}}, "rounding", "yes"),
        ("loss", 1.1, THREADS, "rounding", "no"),
        ("perplexity", 0.019, THREADS, "rounding", "yes"),
        ("perplexity", 0.021, THREADS, "rounding", "no"),
        ("accuracy", 0.1, THREADS, "rounding", "yes"),  # one row of ten always may
        ("accuracy", 0.11, THREADS, "rounding", "no"),
        ("answers", 1, THREADS, "rounding", "yes"),
        ("answers", 2, THREADS, "rounding", "no"),
        ("norm", 1e-9, THREADS, "rounding", "not judged"),  # was not measured
        # another processor
        ("loss", 1.9, DEVICE, "machine", "yes"),
        ("loss", -2.1, DEVICE, "machine", "no"),
        ("loss", math.nan, DEVICE, "machine", "no"),
        ("norm", 0.09, DEVICE, "machine", "yes"),
        ("norm", -0.11, DEVICE, "machine", "no"),
        ("answers", 3, DEVICE, "machine", "yes"),
        ("answers", 4, DEVICE, "machine", "no"),
        # what is exact, anywhere
        ("steps", None, DEVICE, "machine", "no"),
        ("rows", None, DEVICE, "machine", "no"),
        ("weights", None, DEVICE, "machine", "no"),
        ("weights", None, {}, "bit for bit", "no"),
        ("precision", None, {}, "bit for bit", "no"),
        ("a norm less", None, DEVICE, "machine", "no"),
        ("no answers", None, DEVICE, "machine", "no"),
    ],
)
def test_what_may_differ_where(run, what, by, place, how, held):
    said = verify.compare(run, changed(run, what, by, **place), MEASURED)
    assert (said["compared"], said["holds"]) == (how, held)


def test_what_is_said_of_a_deviation(run):
    said = verify.compare(run, changed(run, "loss", 0.5, threads=7), MEASURED)["deviation"]
    assert "loss 0.5 (1)" in said and "accuracy 0 (0.1)" in said and "norm 0 (none)" in said


def test_another_version_of_the_numbers_need_not_be_equal(run):
    """Told apart by `version` alone, on one machine: within the tolerances, not bit for bit."""
    other = changed(run, "loss", 0.9)
    other.version += 1
    assert verify.compare(run, other, MEASURED)["compared"] == "rounding"


def test_old_records_without_answers_are_compared_by_the_rest(run):
    """Of them, and of what else they did not keep, nothing is asked."""
    old = changed(run, "no answers")
    del old.data["text"]
    assert verify.compare(old, run, {})["holds"] == "yes"
    assert verify.compare(old, changed(run, "loss", 1e-7), {})["holds"] == "no"


def test_without_tolerances_only_equality_is_judged(run):
    said = verify.compare(run, changed(run, "loss", 1e-7, device="another"), {})
    assert (said["compared"], said["holds"]) == ("not measured", "not judged")
    assert verify.compare(run, changed(run, "nothing", device="another"), {})["holds"] == "yes"
    assert verify.compare(run, changed(run, "weights", device="another"), {})["holds"] == "no"


def test_a_number_that_one_side_lacks_is_infinitely_far():
    old, new = {"a": ("loss", 1.0), "b": ("norm", 2.0)}, {"a": ("loss", 1.5), "c": ("loss", 1.0)}
    assert verify.deviations(old, new) == {"loss": math.inf, "norm": math.inf}
    off = verify.deviations({"a": ("norm", 2.0)}, {"a": ("norm", 2.2)})
    assert off == {"norm": pytest.approx(0.1)}


def test_the_committed_tolerances_are_of_the_committed_records():
    """Every kind of number, of each model and precision that there are records of."""
    measured = json.loads(verify.TOLERANCES.read_text())
    for profile in profiles.PROFILES:
        for path in records.runs_folder(profile).glob("*.json"):
            spec = records.load(path).spec
            one = measured[f"{spec['model']['name']} {spec['precision']}"]
            for how in ("rounding", "machine"):
                assert set(one[how]) == {"accuracy", "answers", "perplexity", "loss", "norm"}
                assert all(0 <= most <= 1 for most in one[how].values())


@pytest.fixture
def kept(tmp_path):
    """Records of made-up durations in a folder: head only, then LoRA and CURLoRA by rank."""
    grid = profiles.grid("embedded", "table2", ranks=[8, 16, 24])
    save(grid, (35, 64, 66, 68, 65, 67, 69), tmp_path)
    return tmp_path, [spec.key for spec in grid]


def save(grid, seconds, folder):
    for spec, time in zip(grid, seconds, strict=True):
        record = records.RunRecord(spec.to_dict(), seconds=float(time))
        records.save(record, records.runs_folder("embedded", folder) / f"{spec.key}.json")


def test_by_default_the_quickest_of_each_method_on_each_model(kept):
    folder, keys = kept
    assert list(verify.chosen("embedded", results=folder)) == [keys[0], keys[1], keys[4]]
    grid = profiles.grid("embedded", "table1", ranks=[8])
    save(grid, (1, 200, 104), folder)
    wanted = [grid[0].key, keys[0], keys[1], keys[4], grid[2].key, grid[1].key]
    assert list(verify.chosen("embedded", results=folder)) == wanted


def test_by_name_and_by_share(kept):
    folder, keys = kept
    assert list(verify.chosen("embedded", keys=keys[2:3], results=folder)) == keys[2:3]
    third = verify.chosen("embedded", share=0.3, results=folder)
    assert len(third) == 3 and third.keys() == verify.chosen("embedded", None, 0.3, folder).keys()
    assert len(verify.chosen("embedded", share=1, results=folder)) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": ["table9"]}, r"VERIFY: no record \['table9'\]; there are table2-"),
        ({"share": 0}, "SHARE: got 0, expected a number above 0"),
        ({"profile": "smollm2"}, "profile: smollm2 has no records"),
    ],
)
def test_bad_choices(kept, arguments, message):
    with pytest.raises(ValueError, match=message):
        verify.chosen(**{"profile": "embedded", "results": kept[0], **arguments})


def test_verify_computes_in_a_folder_of_its_own_and_says_what_it_found(tiny, monkeypatch):
    grid = small_grid("table2", methods=["head-only", "lora"])
    found = grids.run_grid(grid, tiny, workers=1)
    kept = {spec.key: record for spec, record in zip(grid, found, strict=True)}
    run_grid = grids.run_grid
    # worker processes would not have tiny models
    alone = unittest.mock.Mock(side_effect=lambda specs, at, **_: run_grid(specs, at, workers=1))
    monkeypatch.setattr(grids, "run_grid", alone)
    monkeypatch.setattr(verify.machine, "cores", lambda: 2)
    (tiny / "measured.json").write_text("{}")
    monkeypatch.setattr(verify, "TOLERANCES", tiny / "measured.json")
    before = sorted(tiny.rglob("*"))
    compared = verify.verify(kept)
    threads = found[0].provenance["threads"]
    at = {"workers": max(1, min(2 // threads, 2)), "threads": threads}
    assert [call.kwargs for call in alone.mock_calls] == [at]
    assert list(compared.record) == list(kept) and set(compared.holds) == {verify.HELD}
    assert sorted(tiny.rglob("*")) == before
    text = verify.save("embedded-quick", compared, tiny)
    assert text.count("| bit for bit") == 2
    assert (tiny / "verify_embedded_quick.md").read_text() == text
    assert pd.read_csv(tiny / "verify_embedded_quick.csv").record.tolist() == list(kept)
