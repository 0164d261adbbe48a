"""What the published protocol does, each point worked out apart from the code under test.

A test here fails if somebody quietly corrects the author's choice.
"""

import dataclasses

import pytest
import torch
import transformers

from curlora_lite import cur, training
from curlora_lite.replication import machine, profiles, sequence
from curlora_lite.replication.protocol import SWITCHES, Protocol

PUBLISHED, CORRECTED = Protocol.published(), Protocol.corrected()
# §2 of the specification: records of the full split, times epochs, is what the schedule counts
RECORDS = {"mrpc": 3 * 3668, "sst2": 3 * 67349, "sentiment140": 3 * 498}
STEPS = {"table1": (375, 375, 189), "table2": (345, 471, 80)}
PAPER_GRIDS = [("smollm2", "table1"), ("mistral-7b", "table1"), ("gpt2-large", "table2")]


def spec_of(profile="smollm2", table="table1", method="lora", rank=16, **changes):
    spec = profiles.grid(profile, table, ranks=[rank], methods=[method])[0]
    return dataclasses.replace(spec, **changes)


@pytest.fixture(autouse=True)
def padded(monkeypatch):
    monkeypatch.setattr(machine, "packs_rows", lambda: False)


def steps(spec, task):
    return len(list(training.batches(task.train_rows, sequence.recipe(spec, task))))


@pytest.mark.parametrize(("profile", "table"), PAPER_GRIDS)
def test_steps_are_the_papers(profile, table):
    spec = spec_of(profile, table)
    assert tuple(steps(spec, task) for task in spec.tasks) == STEPS[table]


def test_the_last_batch_of_sst2_is_full():
    """`range(0, 5000, 32)` of the author's loop begins its last slice of 32 rows at row 4,992."""
    rows = {row for i in range(0, 5000, 32) for row in range(i, i + 32)}
    sst2 = spec_of("gpt2-large", "table2").tasks[1]
    assert sst2.train_rows == len(rows) == 5024


@pytest.mark.parametrize(("profile", "table"), PAPER_GRIDS)
def test_no_published_run_leaves_warm_up(profile, table):
    """Its rates are those of transformers' cosine schedule with 500 warm-up steps, step by step."""
    spec = spec_of(profile, table)
    assert spec.learning_rate == 2.5e-4
    for task in spec.tasks:
        last = steps(spec, task)
        ours = [training.rate(k, last, task.peak, "records") for k in range(last)]
        if (table, task.name) == ("table2", "sentiment140"):
            assert set(ours) == {1.0}  # no schedule
            continue
        optimiser = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
        oracle = transformers.get_cosine_schedule_with_warmup(optimiser, 500, RECORDS[task.name])
        for rate in ours:
            assert rate == pytest.approx(oracle.get_last_lr()[0], abs=1e-12)
            optimiser.step()
            oracle.step()
        assert max(ours) < 1


def test_alpha_is_not_divided_by_the_rank():
    divided = dataclasses.replace(PUBLISHED, scaling="alpha/r")
    assert sequence.adapter_config(spec_of(rank=16)).alpha == 1.0
    assert sequence.adapter_config(spec_of(rank=16, protocol=divided)).alpha == 1 / 16


def test_adapters_are_drawn_as_the_protocol_says():
    """With weights of p + 0.001, and LoRA's A within 1/sqrt(r): see test_cur and test_layers."""
    authors, eq4 = cur.Selection("smoothed", True), cur.Selection("inverted", False)
    for protocol, selection, init in ((PUBLISHED, authors, "authors"), (CORRECTED, eq4, "usual")):
        spec = spec_of(protocol=protocol, seed=3)
        assert sequence.adapter_config(spec).init == init
        curlora = sequence.adapter_config(dataclasses.replace(spec, method="curlora"))
        assert (curlora.selection, curlora.rank, curlora.seed) == (selection, 16, 3)
        assert curlora.target_modules == ("q_proj", "k_proj", "v_proj")


def test_selection_is_nearly_uniform_and_repeats_itself():
    selection = sequence.adapter_config(spec_of(method="curlora")).selection
    p = torch.tensor([1e-4, 3e-4, 1 - 4e-4], dtype=torch.float64)
    q = cur.draw_probabilities(p, selection.weighting)
    assert q[0] / q[1] == pytest.approx(0.0013 / 0.0011)  # Eq. 4 has 3
    weights = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    rows, _ = cur.select(weights, 16, selection, torch.Generator().manual_seed(0))
    assert len(set(rows.tolist())) < 16  # all 16 without repeating would be chance 1e-6


@pytest.mark.parametrize("protocol", [PUBLISHED, CORRECTED])
def test_training_is_what_spec_and_protocol_say(protocol):
    """What comes of each field is worked out in test_training."""
    spec = spec_of("gpt2-large", "table2", protocol=protocol, seed=3, checkpointing=True)
    found = dataclasses.asdict(sequence.recipe(spec, spec.tasks[2]))
    of_protocol = ("schedule", "shuffle", "optimiser", "dropout")
    assert {name: found.pop(name) for name in of_protocol} == {
        name: getattr(protocol, name) for name in of_protocol
    }
    assert found == {
        "learning_rate": 2.5e-4, "epochs": 5, "batch": 32, "seed": 3, "peak": None,
        "checkpointing": True, "last_position": protocol == PUBLISHED, "packed": False,
    }  # fmt: skip


def test_rows_keep_their_order_each_epoch():
    task = dataclasses.replace(spec_of().tasks[0], epochs=2)
    spec = spec_of(batch=4, seed=3)
    in_order = list(training.batches(10, sequence.recipe(spec, task)))
    assert in_order == 2 * [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    corrected = dataclasses.replace(spec, protocol=CORRECTED)
    shuffled = list(training.batches(10, sequence.recipe(corrected, task)))
    assert shuffled[:3] != shuffled[3:]
    assert sorted(i for batch in shuffled[:3] for i in batch) == list(range(10))


def test_perplexity_reads_one_window_of_the_first_tokens():
    for profile, table, tokens in (("mistral-7b", "table1", 10_000), ("gpt2-large", "table2", 256)):
        spec = spec_of(profile, table)
        assert (spec.text_tokens, spec.text_window) == (tokens, tokens)


def test_every_field_can_be_set_alone_and_is_named():
    assert PUBLISHED.name() == "published"
    assert CORRECTED.name() == "corrected"
    own, other = dataclasses.asdict(PUBLISHED), dataclasses.asdict(CORRECTED)
    assert set(own) == set(SWITCHES)
    assert [field for field in own if own[field] == other[field]] == ["scaling"]
    for field, (_, _, choices) in SWITCHES.items():
        for choice in choices:
            parsed = Protocol.parse(f"published,{field}={choice}")
            assert parsed == dataclasses.replace(PUBLISHED, **{field: choice})
            changed = "" if choice == own[field] else f", {field}={choice}"
            assert parsed.name() == f"published{changed}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("publisht", "protocol: got 'publisht', expected one of published, corrected"),
        ("published,order=x", "protocol field: got 'order', expected one of weighting"),
        ("corrected,readout=first", "readout: got 'first', expected one of last-position"),
    ],
)
def test_bad_protocol(text, message):
    with pytest.raises(ValueError, match=message):
        Protocol.parse(text)
