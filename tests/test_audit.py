"""The audit: its plan, the methods it sets beside ours, and what it measures of adapters."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from small_runs import small
from torch import nn
from transformers.pytorch_utils import Conv1D

from curlora_lite import (
    CURLoRAConfig,
    add_adapters,
    continual,
    count_trainable,
    cur,
    geometry,
    models,
    remove_adapters,
    rivals,
)
from curlora_lite.audit import plan
from curlora_lite.profiles import SMALL_GPT2, SMOLLM2
from curlora_lite.protocol import Protocol

IDS = torch.arange(1, 13)


def test_full_fine_tuning_takes_the_steps_of_training_the_weight_itself(gpt2):
    """Two steps of AdamW on W against two on D; the same loss, fp64."""
    plain, ours = gpt2.double(), copy.deepcopy(gpt2).double()
    targets = [n for n, m in plain.named_modules() if isinstance(m, Conv1D) and "c_attn" in n]
    plain.requires_grad_(False)
    weights = [plain.get_submodule(n).weight.requires_grad_(True) for n in targets]
    names = add_adapters(ours, rivals.FullConfig(target_modules=["c_attn"]))
    assert names == targets
    assert count_trainable(ours) == sum(w.numel() for w in weights)
    for model, trained in ((plain, weights), (ours, None)):
        trained = trained or [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.0)
        for _ in range(2):
            model(input_ids=IDS[None], labels=IDS[None]).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    # rounding of fp64, magnified by Adam's division
    torch.testing.assert_close(ours(IDS[None]).logits, plain(IDS[None]).logits, rtol=0, atol=1e-9)
    layer = ours.get_submodule(targets[0])
    moved = weights[0].detach() - layer.base.weight
    torch.testing.assert_close(layer.update(), moved, rtol=0, atol=1e-9)
    assert layer.update_norm() == pytest.approx(moved.norm().item())


@pytest.mark.parametrize("method", rivals.PEFT_METHODS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_methods_change_nothing_at_first_and_train_on_the_same_projections(
    method, kind, request
):
    model = request.getfixturevalue(kind).requires_grad_(False)
    before = model(IDS[None]).logits
    targets = ("c_attn",) if kind == "gpt2" else ("q_proj", "k_proj", "v_proj")
    config = rivals.FullConfig(rank=4, target_modules=targets)
    names = rivals.add_peft(model, method, config)
    assert len(names) == 2 * len(targets)
    torch.testing.assert_close(model(IDS[None]).logits, before, rtol=0, atol=1e-5)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.dtype == torch.float32 for p in trained)
    shapes = [(32, 96)] if kind == "gpt2" else [(32, 32), (32, 16), (32, 16)]
    if method == "peft-lora":
        assert count_trainable(model) == 2 * sum(4 * (a + b) for a, b in shapes)
    if method == "osf":  # U (out, k), S (k), V (k, in): k directions, those beyond the kept ones
        smallest = min(min(s) for s in shapes)
        kept = smallest - 4
        k = [min(s) - kept for s in shapes]
        assert count_trainable(model) == 2 * sum(
            r * (a + b + 1) for r, (a, b) in zip(k, shapes, strict=True)
        )
    loss = model(input_ids=IDS[None], labels=IDS[None]).loss
    loss.backward()
    torch.optim.SGD(trained, lr=0.5).step()
    assert model(input_ids=IDS[None], labels=IDS[None]).loss < loss


def test_vera_trains_about_as_many_numbers_as_curlora():
    """Rank 8: 64 a projection, less the 32 of its outputs, leave rank 32."""
    model = nn.Sequential()
    model.add_module("q_proj", nn.Linear(16, 32))
    assert rivals.vera_rank(model, ["q_proj"], 8) == 32
    assert rivals.vera_rank(model, ["q_proj"], 2) == 1


def test_an_unknown_peft_method_is_refused(gpt2):
    with pytest.raises(ValueError, match="method"):
        rivals.add_peft(gpt2, "dora", rivals.FullConfig(target_modules=["c_attn"]))


def test_geometry_against_the_matrices_themselves(gpt2):
    config = CURLoRAConfig(rank=3, alpha=0.5, target_modules=["c_attn"])
    names = add_adapters(gpt2, config)
    layers = [gpt2.get_submodule(name) for name in names]
    for i, layer in enumerate(layers):
        nn.init.normal_(layer.U, generator=torch.Generator().manual_seed(i))
    inputs = []
    hook = layers[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    found = geometry.geometry(gpt2, IDS)
    hook.remove()
    layer, x = layers[1], inputs[0][0].double()
    C, U, R = (M.detach().double() for M in layer.factors())
    W = layer.base.weight.double()
    one = found[names[1]]
    assert one["bound"] == pytest.approx(0.5 * float(C.norm() * U.norm() * R.norm()), rel=1e-6)
    assert one["update"] == pytest.approx(0.5 * (C @ U @ R).norm().item(), rel=1e-6)
    assert one["update"] <= one["bound"]
    assert one["weight"] == pytest.approx(W.norm().item(), rel=1e-6)
    # fp32 products
    assert one["shift"] == pytest.approx(
        (0.5 * x @ C @ U @ R).norm().item() / (x @ W).norm().item(), rel=1e-4
    )
    remove_adapters(gpt2)


def test_effective_rank_by_hand():
    assert cur.effective_rank(torch.eye(5)[:, :3]) == pytest.approx(3)
    twice = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert cur.effective_rank(twice) == pytest.approx(1, abs=1e-6)
    # singular values 3 and 1: shares 3/4 and 1/4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert cur.effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        math.exp(entropy)
    )
    assert cur.effective_rank(torch.zeros(4, 2)) == 0


def test_factors_change_one_field_at_a_time():
    published = dataclasses.asdict(Protocol.published())
    right = dataclasses.asdict(Protocol.corrected())
    seen = set()
    assert plan.factors("head-only", SMOLLM2) == [Protocol.published(), Protocol.corrected()]
    for method, model in itertools.product(("lora", "curlora"), (SMALL_GPT2, SMOLLM2)):
        first, *switches, last = plan.factors(method, model)
        assert (first, last) == (Protocol.published(), Protocol.corrected())
        for protocol in switches:
            own = dataclasses.asdict(protocol)
            (field,) = [f for f in own if own[f] != published[f]]
            assert own[field] == right[field]
            seen.add(field)
    assert seen == {f for f in published if published[f] != right[f]}


def test_the_plan_shares_runs_and_goes_seed_by_seed():
    questions = plan.plan("audit")
    specs = plan.all_specs(questions, [0, 1])
    assert len(specs) == len(set(specs)) == len({s.key for s in specs})
    assert [s.seed for s in specs] == sorted(s.seed for s in specs)
    rates = {c.rate for c in questions["movement"] if c.method == "lora"}
    assert len(rates) >= 6 and max(rates) >= 999 * min(rates)
    quick = plan.all_specs(plan.plan("audit-quick"), [0])
    assert len(quick) < len(specs) / 2
    assert not any(s.method in rivals.PEFT_METHODS for s in quick)
    real = plan.all_specs(plan.plan("audit", real=True), [0])
    assert {s.profile for s in real} == {"audit", "smollm2"}


def test_the_plan_has_head_only_at_every_rate_and_the_rules_where_they_move():
    questions = plan.plan("audit")
    cells = questions["movement"]
    swept = {c.rate for c in cells if c.method != "head-only"}
    assert {c.rate for c in cells if c.method == "head-only"} == {None, *swept}
    assert len(swept) == 12
    moved = [c for c in questions["selection"] if c.rate and c.method == "curlora"]
    others = [c for c in moved if c.protocol.weighting != "inverted"]
    assert len(others) == 3 * 3 and not any(c.protocol.replacement for c in moved)
    # Eq. 4's own sweep is question 6's
    assert {c for c in moved if c not in others} == {c for c in cells if c.method == "curlora"}


def test_other_seeds_have_a_folder_of_their_own(tmp_path):
    assert plan.outputs("audit", [4, 3, 2, 1, 0], tmp_path) == tmp_path / "audit"
    assert plan.outputs("audit", (7, 8), tmp_path) == tmp_path / "audit" / "selections/seeds-7-8"


@pytest.mark.parametrize("method", ["full", "vera"])
def test_a_run_of_a_method_beside(tiny, monkeypatch, method):
    forgotten = []
    monkeypatch.setattr(models, "forget", lambda: forgotten.append(1))
    cell = plan.small("audit", "table2", method, Protocol.published(), rank=4)
    record = continual.run(small(cell.specs([0])[0]))
    assert record.status == "finished" and record.trainable["adapter"] > 0
    assert record.perplexity["final"] != record.perplexity["initial"]
    assert forgotten == ([1] if method == "vera" else [])
    assert ("geometry" in record.stages[0]) == (method == "full")
