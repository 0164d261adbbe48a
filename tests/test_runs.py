"""The tidy frame of all records, by numbers worked out by hand."""

import math

import pandas as pd
import pytest
from made_records import record, two_seeds

from curlora_lite.replication import profiles, records, runs


def number(frame, label, seed, stage, task, measure):
    rows = frame[(frame.label == label) & (frame.seed == seed) & (frame.stage == stage)]
    (row,) = rows[(rows.task == task) & (rows.measure == measure)].itertuples()
    return row


def test_a_row_a_run_stage_and_score(frame):
    assert list(frame.columns) == list(runs.COLUMNS)
    # a run: 2 perplexities; 1 + 2 + 4 scores, a loss and a rate a stage; with an adapter, a norm
    sizes = frame.groupby(["label", "seed"]).size().to_dict()
    assert sizes == {("Head only", 0): 15, ("Head only", 1): 15, ("LoRA-8", 0): 18,
                     ("LoRA-8", 1): 5, ("CURLoRA-8", 0): 18, ("CURLoRA-8", 1): 18}  # fmt: skip
    assert set(frame.profile) == {"smollm2"} and set(frame.version) == {3}
    assert frame[frame.label == "Head only"]["rank"].isna().all()
    assert set(frame[frame.label == "LoRA-8"]["rank"]) == {8}
    assert set(frame.protocol + frame.commit) == {"published0123456789abcdef"}
    made = two_seeds()[0]
    made.provenance["dirty"] = True
    assert records.short(runs.of_grid([made]).commit[0]) == "0123456789 and changes"


def test_the_numbers_of_a_run(frame):
    assert number(frame, "LoRA-8", 0, 0, "text", "perplexity").value == 20
    assert number(frame, "LoRA-8", 0, 3, "text", "perplexity").value == 60
    score = number(frame, "LoRA-8", 0, 2, "mrpc", "accuracy")
    assert (score.value, score.n, score.majority, score.answered) == (0.60, 100, 0.68, 0.80)
    assert number(frame, "LoRA-8", 0, 3, runs.BALANCED, "accuracy").value == 0.6
    norm = number(frame, "LoRA-8", 0, 2, "sst2", "norm")
    assert norm.value == pytest.approx((0.02 + 0.06) / 2) and norm.n == 2
    loss = number(frame, "LoRA-8", 0, 1, "mrpc", "loss")
    assert (loss.value, loss.n) == (1.5, 2)  # the last of three epochs
    assert number(frame, "LoRA-8", 0, 2, "sst2", "rate").value == 0.2


def test_a_run_without_numbers_is_a_row_all_the_same():
    spec = profiles.grid("smollm2", "table1")[0]
    frame = runs.of_grid([record(spec, [], (), status="out of memory")])
    found = frame[["status", "parameters"]].values.tolist()
    assert found == [["out of memory", 0]] and frame.value.isna().all()  # head only trains none


def test_summary_by_hand(frame):
    """Sentiment140 counts by the balanced rows; the diverged run has no line."""
    found = runs.summary(frame).set_index(["label", "seed"])
    assert len(found) == 5 and ("LoRA-8", 1) not in found.index
    lora, curlora = found.loc[("LoRA-8", 0)], found.loc[("CURLoRA-8", 0)]
    assert lora.just_learned == pytest.approx((0.70 + 0.90 + 0.60) / 3)
    assert lora.acc == pytest.approx((0.40 + 0.80 + 0.60) / 3)
    assert lora.forgetting == pytest.approx((0.30 + 0.10) / 2)
    # the best earlier score of MRPC was not its first one: 0.63 - 0.64, and 0.70 - 0.74
    assert curlora.forgetting == pytest.approx((-0.01 - 0.04) / 2)
    assert curlora.bwt == pytest.approx((0.02 + 0.04) / 2)
    assert (lora.before, lora.after, lora.ratio) == (20, 60, 3)
    assert lora.nats == pytest.approx(math.log(3))
    assert lora.norm == pytest.approx(0.06)
    assert found.loc[("Head only", 0)].norm == 0
    falls = frame[(frame.label == "LoRA-8") & (frame.seed == 0)].copy()
    falls.loc[(falls.measure == "perplexity") & (falls.stage > 0), "value"] = 5.0
    assert runs.summary(falls).ratio.tolist() == [0.25]  # 20 before, whichever is larger


def test_summary_of_nothing_finished_is_empty(frame):
    found = runs.summary(frame[frame.status == "diverged"])
    assert found.empty and {"acc", "ratio", "label"} <= set(found.columns)


def test_csv_of_a_profile(tmp_path, frame):
    for made in two_seeds():
        key = profiles.RunSpec.from_dict(made.spec).key
        records.save(made, records.runs_folder("smollm2", tmp_path) / f"{key}.json")
    path = runs.write_csv("smollm2", tmp_path)
    assert path == tmp_path / "smollm2" / "runs.csv"
    read = pd.read_csv(path)
    assert list(read.columns) == [name for name in runs.COLUMNS if name != "answers"]
    order = ["run", "stage", "task", "measure"]
    expected = frame.sort_values(order).value.tolist()
    assert read.sort_values(order).value.tolist() == expected


def test_a_damaged_record_is_named(tmp_path):
    folder = records.runs_folder("smollm2", tmp_path)
    assert runs.frame("smollm2", tmp_path).empty
    made = two_seeds()[0]
    records.save(made, folder / "whole.json")
    assert len(runs.frame("smollm2", tmp_path)) == 15
    (folder / "half.json").write_text('{"spec": ')
    with pytest.raises(ValueError, match="half.json"):
        runs.frame("smollm2", tmp_path)
