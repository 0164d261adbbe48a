"""Records computed again: equal bit for bit, off by more than was measured, chosen by time."""

import copy
import importlib
import json
import math
import unittest.mock

import pandas as pd
import pytest
from small_runs import small_grid, stand_in

from curlora_lite.replication import grids, profiles, records, sequence, verify

# what may differ: made up, with accuracy below one row of ten
MEASURED = {"smollm2-135m-fused lora": {"accuracy": 0.05, "perplexity": 0.02, "norm": 0.1}}
BITS, TABLES = "bit for bit", "as tables state it"


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
    off = dict.fromkeys((*verify.STATED, "answers"), "0")
    assert verify.compare(run, again, {}) == {"compared": BITS, **off, "holds": "yes"}


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
    "norms": lambda run, stage, by: [move(stage["norms"], n, by, True) for n in stage["norms"]],
    "accuracy": lambda run, stage, by: move(stage["scores"]["mrpc"], "accuracy", by),
    "answers": lambda run, stage, by: flip(stage["scores"]["mrpc"], by),
    "rows": lambda run, stage, by: run.data["mrpc"].update(train="0" * 64),
    "weights": lambda run, stage, by: setattr(run, "model_sha256", "0" * 64),
    "ending": lambda run, stage, by: setattr(run, "status", "diverged"),
    "precision": lambda run, stage, by: run.spec.update(precision="bf16"),
    "seed": lambda run, stage, by: run.spec.update(seed=9),
    "no answers": lambda run, stage, by: [
        score.pop("answers") for stage in run.stages for score in stage["scores"].values()
    ],
    "a norm less": lambda run, stage, by: stage["norms"].popitem(),
    "a score less": lambda run, stage, by: stage["scores"].popitem(),
}


def changed(run, what, by=None, **place):
    """A copy of the run, its first `what` off by so much; provenance changed by `place`."""
    other = copy.deepcopy(run)
    other.provenance |= place
    CHANGES[what](other, other.stages[0], by)
    return other


DEVICE, PLACES = {"device": "another"}, "device platform python packages threads rows"


HELD = [
    # where all agrees, no number may move at all
    ("loss", 1e-7, {}, BITS, "no"),
    ("norms", 1e-9, {}, BITS, "no"),
    ("answers", 1, {}, BITS, "no"),
    ("weights", None, {}, BITS, "no"),
    ("nothing", None, DEVICE, BITS, "yes"),
    # elsewhere what no table states may; also with other threads, versions or packing
    *(("loss", 9.0, {place: "another"}, TABLES, "yes") for place in PLACES.split()),
    ("answers", 5, DEVICE, TABLES, "yes"),  # beside them
    ("precision", None, {}, TABLES, "yes"),
    ("perplexity", 0.019, DEVICE, TABLES, "yes"),
    ("perplexity", 0.021, DEVICE, TABLES, "no"),
    ("perplexity", math.nan, DEVICE, TABLES, "no"),
    ("accuracy", 0.1, DEVICE, TABLES, "yes"),  # one row of ten always may
    ("accuracy", -0.11, DEVICE, TABLES, "no"),
    ("norms", 0.09, DEVICE, TABLES, "yes"),
    ("norms", -0.11, DEVICE, TABLES, "no"),
    # what is exact, anywhere
    *((what, None, DEVICE, TABLES, "no") for what in ("rows", "weights", "ending", "seed")),
    *((what, None, DEVICE, TABLES, "no") for what in ("a norm less", "a score less")),
]


@pytest.mark.parametrize(("what", "by", "place", "how", "held"), HELD)
def test_what_may_differ_where(run, what, by, place, how, held):
    said = verify.compare(run, changed(run, what, by, **place), MEASURED)
    assert (said["compared"], said["holds"]) == (how, held)


def test_what_is_said_of_a_deviation(run):
    """With what is allowed: as measured, but at least a row of ten or what two decimals show."""
    other = changed(changed(run, "answers", 2), "perplexity", 0.005, **DEVICE)
    said = verify.compare(run, other, {next(iter(MEASURED)): dict.fromkeys(verify.STATED, 1e-9)})
    shown = {"accuracy": "0 (0.1)", "perplexity": "0.005 (0.01)", "norm": "0 (0.01)"}
    assert said == {"compared": TABLES, **shown, "answers": "0.2", "holds": "yes"}


def test_records_of_another_version_need_not_be_equal(run):
    """Nor have all that is kept now: answers, and which text was read."""
    old = changed(run, "no answers")
    del old.data["text"]
    old.version -= 1
    said = verify.compare(old, changed(run, "loss", 0.9), MEASURED)
    assert (said["compared"], said["holds"]) == (TABLES, "yes")


def test_what_was_not_measured_is_not_judged(run):
    assert verify.compare(run, changed(run, "loss", 1e-7, **DEVICE), {})["holds"] == "not judged"
    assert verify.compare(run, changed(run, "weights", **DEVICE), {})["holds"] == "no"


def test_the_committed_tolerances_are_of_records_from_elsewhere(monkeypatch):
    """Made of the records beside them; and of each model and method of the tables."""
    monkeypatch.syspath_prepend(verify.TOLERANCES.parent)
    made = importlib.import_module("tolerances")
    rows, measured = made.found(), json.loads(verify.TOLERANCES.read_text())
    assert made.tolerances(rows) == measured
    assert "Intel Xeon, bf16" in set(rows.kind)  # a second kind of processor
    for profile in profiles.PROFILES:
        for path in records.runs_folder(profile).glob("*.json"):
            record = records.load(path)
            known = record.spec["method"] in profiles.METHODS and set(verify.STATED)
            assert set(verify.tolerances(measured, record)) == (known or set()), path


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


CHOICES = [
    ({"keys": ["table9"]}, r"VERIFY: no record \['table9'\]; there are table2-"),
    ({"share": 0}, "SHARE: got 0, expected a number above 0"),
    ({"profile": "smollm2"}, "profile: smollm2 has no records"),
]


@pytest.mark.parametrize(("arguments", "message"), CHOICES)
def test_bad_choices(kept, arguments, message):
    with pytest.raises(ValueError, match=message):
        verify.chosen(**{"profile": "embedded", "results": kept[0], **arguments})


def test_verify_computes_in_a_folder_of_its_own_and_says_what_it_found(tiny, monkeypatch):
    """A record in bf16 is computed in fp32 where that alone is fast, as on `tiny` machines."""
    grid = small_grid("table2", methods=["head-only", "lora"])
    found = grids.run_grid(grid, tiny, workers=1)
    kept = {spec.key: record for spec, record in zip(grid, found, strict=True)}
    found[1].spec["precision"] = "bf16"
    run_grid = grids.run_grid
    # worker processes would not have tiny models
    alone = unittest.mock.Mock(side_effect=lambda specs, at, **_: run_grid(specs, at, workers=1))
    monkeypatch.setattr(grids, "run_grid", alone)
    monkeypatch.setattr(verify.machine, "cores", lambda: 2)
    (tiny / "measured.json").write_text(json.dumps(MEASURED))
    monkeypatch.setattr(verify, "TOLERANCES", tiny / "measured.json")
    before = sorted(tiny.rglob("*"))
    compared = verify.verify(kept)
    threads = found[0].provenance["threads"]
    at = {"workers": max(1, min(2 // threads, 2)), "threads": threads}
    assert alone.mock_calls == [unittest.mock.call(grid, unittest.mock.ANY, **at)]
    assert list(compared.record) == list(kept) and set(compared.holds) == {verify.HELD}
    assert sorted(tiny.rglob("*")) == before
    text = verify.save("embedded-quick", compared, tiny)
    assert compared.compared.tolist() == [BITS, TABLES]
    assert f"yes: {verify.MEANING['yes']}" in text and "no: " not in text
    assert (tiny / "tables" / "verify_embedded_quick.md").read_text() == text
    assert pd.read_csv(tiny / "tables" / "verify_embedded_quick.csv").record.tolist() == list(kept)
