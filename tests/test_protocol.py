"""What the published protocol does, each point worked out apart from the code under test.

A test here fails if somebody quietly corrects the author's choice.
"""

import dataclasses

import pytest
import torch
import transformers
from small_runs import fake_task, small_grid

from curlora_lite import LoRAConfig, add_adapters, cur, remove_adapters, training
from curlora_lite.replication import data, profiles, sequence
from curlora_lite.replication.protocol import SWITCHES, Protocol

PUBLISHED, CORRECTED = Protocol.parse("published"), Protocol.parse("corrected")
# §2 of the specification: records of the full split, times epochs, is what the schedule counts
RECORDS = {"mrpc": 3 * 3668, "sst2": 3 * 67349, "sentiment140": 3 * 498}
STEPS = {"table1": (375, 375, 189), "table2": (345, 471, 80)}
PAPER_GRIDS = [("smollm2", "table1"), ("mistral-7b", "table1"), ("gpt2-large", "table2")]


def spec_of(profile="smollm2", table="table1", method="lora", rank=16, **changes):
    spec = profiles.grid(profile, table, ranks=[rank], methods=[method])[0]
    return dataclasses.replace(spec, **changes)


def table2(**changes):
    return spec_of("gpt2-large", "table2", **changes)


def steps(spec, task):
    return len(list(training.batches(task.train_rows, sequence.recipe(spec, task))))


@pytest.mark.parametrize(("profile", "table"), PAPER_GRIDS)
def test_steps_are_the_papers(profile, table):
    spec = spec_of(profile, table)
    assert tuple(steps(spec, task) for task in spec.tasks) == STEPS[table]
    assert tuple(task.classes for task in spec.tasks) == (2, 2, 3)
    assert tuple(task.eval_rows for task in spec.tasks) == (408, 872, 1024)


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


ROWS = training.Encoded([[5, 6, 7], [9, 8, 7, 6, 5, 4, 3]], torch.tensor([0, 1]))
TARGETS = {"llama": ["q_proj"], "gpt2": ["c_attn"]}


def test_rows_are_laid_end_to_end_where_that_is_faster_and_nothing_is_read_from_padding():
    """On a CPU, the plain model's; what is checkpointed takes transformers' own pass."""
    for spec, expected in (spec_of(), (True, False)), (table2(), (False, True)):
        found = sequence.recipe(spec, spec.tasks[0])
        assert (sequence.packs(spec, "cpu"), found.last_position) == expected
    assert not sequence.packs(spec_of(), "cuda")
    assert sequence.recipe(spec_of(head_rate=0.5), spec_of().tasks[0]).head_rate == 0.5
    assert not sequence.packs(spec_of(checkpointing=True), "cpu")


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("kind", TARGETS)
def test_checkpointing_works_with_and_without_dropout(request, kind, dropout):
    """Each block is run twice a step, and the losses are those without checkpointing."""
    model = request.getfixturevalue(kind).requires_grad_(False)
    # inside the block: checkpointing leaves the block's own hooks outside
    block = model.model.layers[0].mlp if kind == "llama" else model.transformer.h[0].mlp
    protocol = dataclasses.replace(PUBLISHED, dropout=dropout)
    config = LoRAConfig(rank=2, target_modules=TARGETS[kind])
    losses = {}
    for checkpointing in (False, True):
        add_adapters(model, config)
        torch.manual_seed(0)
        head = torch.nn.Linear(32, 2)
        calls = []
        hook = block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(0)
        spec = table2(protocol=protocol, checkpointing=checkpointing, batch=2, learning_rate=0.5)
        recipe = sequence.recipe(spec, dataclasses.replace(spec.tasks[0], epochs=3))
        trained = training.train_task(model.base_model, head, ROWS, recipe, 0)
        losses[checkpointing] = trained["losses"]
        hook.remove()
        remove_adapters(model)
        assert len(calls) == (6 if checkpointing else 3)
        # of the backbone: it alone is put into training mode
        assert not any(module.training for module in model.base_model.modules())
        assert not model.base_model.is_gradient_checkpointing
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    rates = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == (set() if kind == "llama" else {0.1})  # as they were


def test_no_three_class_score_where_two_classes_were_trained(tiny):
    protocol = dataclasses.replace(PUBLISHED, sentiment_eval="balanced")
    record = sequence.run(small_grid(methods=["head-only"], protocol=protocol)[0])
    assert list(record.stages[-1]["scores"]) == ["mrpc", "sst2", "sentiment140"]


def test_fewer_rows_leave_the_published_warm_up_earlier():
    """399 rows in batches of 8 are 50 steps an epoch: 150 of 500 warm-up steps."""
    spec = profiles.grid("smollm2", "table1", protocol="published,sentiment_eval=balanced")[0]
    sentiment = spec.tasks[-1]
    assert sentiment.train_rows == 399
    assert training.rate(100, steps(spec, sentiment), sentiment.peak, "records") == 0.2


def test_with_tune_everything_scored_is_of_the_part_for_tuning(tiny, monkeypatch):
    """On one loaded model, which remembers the text and its perplexity, as without."""
    parts, texts = [], {"tune": "the news " * 40, "eval": "the news of the day " * 20}

    def load(task, part, rows, protocol, source):
        parts.append(part)
        return fake_task(task, part, rows)

    monkeypatch.setattr(data, "load_task", load)
    monkeypatch.setattr(data, "load_text", lambda part, source: texts[part])
    spec, found = small_grid(methods=["head-only"], protocol=CORRECTED)[0], {}
    seen = {True: {"train", "tune"}, False: {"train", "eval", "held-out"}}
    for tune in (True, False):
        parts.clear()
        record = sequence.run(dataclasses.replace(spec, tune=tune))
        assert set(parts) == seen[tune]
        found[tune] = record.perplexity["initial"]["tokens"]
        assert list(record.data["text"]) == ["tune" if tune else "eval"]
    assert found == {True: 79, False: 99}
    parts.clear()
    sequence.run(dataclasses.replace(spec, tune=True, protocol=PUBLISHED))  # balanced ones beside
    assert set(parts) == seen[True]
