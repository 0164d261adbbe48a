"""Adapters under casts, grad modes and default devices; numbers that are not finite."""

import copy

import pytest
import torch
from small_runs import tiny_llama
from test_works_with import CONFIGS, gradients, loss_of, started

import curlora_lite as cl

CASTS = {"bf16": torch.bfloat16} | {f"fp{n}": getattr(torch, f"float{n}") for n in (16, 32, 64)}
EVENTS = {name: lambda model, dtype=dtype: model.to(dtype) for name, dtype in CASTS.items()} | {
    "merge": cl.merge_adapters,
    "unmerge": cl.unmerge_adapters,
    "switch": lambda model: (cl.set_adapter(model, "other"), cl.set_adapter(model, "default")),
}
ORDERS = [
    "bf16", "fp16", "fp64", "fp64 fp32", "merge bf16 unmerge", "bf16 merge fp32 unmerge bf16",
    "merge fp64 unmerge fp32", "fp16 switch fp32", "switch bf16 switch merge unmerge fp64",
]  # fmt: skip


def trained(model):
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("method", CONFIGS)
def test_no_cast_costs_what_was_trained_a_bit(llama, method, order, tmp_path):
    """One dtype of the weights at the end, U in fp32 or fp64 and trained; what was saved loads."""
    cl.add_adapters(llama, cl.CURLoRAConfig(rank=2), "other")
    before = {n: p.detach().clone() for n, p in trained(started(llama, CONFIGS[method])).items()}
    for event in order.split():
        EVENTS[event](llama)
    (dtype,) = {p.dtype for p in llama.parameters() if not p.requires_grad}
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    for name, parameter in trained(llama).items():
        assert parameter.dtype == wanted and torch.equal(parameter, before[name].to(wanted))
    loss_of(llama).backward()
    assert gradients(llama).keys() == before.keys()
    cl.save_adapter(llama, tmp_path)
    other = copy.deepcopy(llama)
    cl.remove_adapters(other)
    cl.load_adapter(other, tmp_path, check_base="exact")
    assert torch.equal(loss_of(other), loss_of(llama))


def test_one_that_is_not_active_follows_the_weights(llama):
    cl.add_adapters(started(llama, cl.CURLoRAConfig(rank=4)), cl.LoRAConfig(rank=2), "other")
    for parameter in llama.bfloat16().parameters():
        parameter.data *= 3
    cl.set_adapter(llama, "default")
    for _, layer in cl.adapter_layers(llama):
        assert layer.basis.dtype == torch.bfloat16 and torch.equal(layer.basis, layer.C.T)


# trained over, loaded over, whether by default; the weights are one model's, rounded once
PRECISIONS = [
    ("bf16", "fp32", True), ("fp32", "bf16", True), ("fp16", "fp32", True), ("fp32", "fp16", True),
    ("fp64", "fp32", True), ("fp64", "bf16", True), ("fp16", "bf16", False),
    ("fp32", "partly bf16", True),
]  # fmt: skip


@pytest.mark.parametrize(("over", "onto", "known"), PRECISIONS)
@pytest.mark.parametrize("method", CONFIGS)
def test_the_same_weights_in_another_precision(method, over, onto, known, tmp_path):
    """fp16 and bf16 of one model differ by more than either's rounding: these cannot be told."""
    base = tiny_llama().to(CASTS[over])
    for parameter in base.parameters():
        parameter.data *= 1 + 1e-10  # which fp64 alone can hold
    cl.save_adapter(started(base, CONFIGS[method]), tmp_path)
    model, whole = tiny_llama().to(CASTS[onto.split()[-1]]), tiny_llama()
    if onto.startswith("partly"):  # as T5 keeps some in fp32
        model.model.layers[0].self_attn.v_proj = whole.model.layers[0].self_attn.v_proj
    with pytest.raises(cl.AdapterFileError, match="is not the one this adapter was trained on"):
        cl.load_adapter(model, tmp_path, check_base="exact")
    if known:
        with pytest.warns(UserWarning, match="in another precision"):
            cl.load_adapter(model, tmp_path)
        cl.remove_adapters(model)
    model.model.layers[1].self_attn.v_proj.weight.data *= 1.01
    with pytest.raises(cl.AdapterFileError, match=r"v_proj is not|q_proj is not"):
        cl.load_adapter(model, tmp_path)
    cl.load_adapter(model, tmp_path, check_base="shapes")


MODES = {
    "inference_mode": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", CONFIGS)
def test_whatever_mode_adapters_are_handled_in(llama, method, mode, tmp_path):
    """To the bits of an ordinary program; training goes on, and no tensor stays behind."""
    expected = started(copy.deepcopy(llama), CONFIGS[method])
    with MODES[mode]():
        cl.add_adapters(llama, CONFIGS[method], "first")
    for one, other in zip(trained(llama).values(), trained(expected).values(), strict=True):
        one.data.copy_(other)
    cl.merge_adapters(expected)
    with MODES[mode]():
        cl.save_adapter(llama, tmp_path)
        cl.load_adapter(llama, tmp_path, check_base="exact")
        cl.set_adapter(llama, "first")
        cl.merge_adapters(llama)
    assert all(map(torch.equal, llama.parameters(), expected.parameters()))
    with MODES[mode](), cl.disable_adapters(cl.unmerge_adapters(llama) and llama):
        cl.remove_adapters(llama, "default")
    loss_of(llama).backward()
    assert gradients(llama).keys() == trained(llama).keys()
    tensors = [*llama.parameters(), *llama.buffers()]
    assert not any(tensor.is_meta or tensor.is_inference() for tensor in tensors)


@pytest.mark.parametrize("does", ["save_adapter", "export_to_peft", "merge_adapters"])
@pytest.mark.parametrize("method", CONFIGS)
def test_numbers_that_are_not_finite_go_nowhere(llama, method, does, tmp_path):
    started(llama, CONFIGS[method])
    bad = llama.model.layers[1].self_attn.k_proj
    next(p for p in bad.parameters() if p.requires_grad).data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="layers.1.self_attn.k_proj holds numbers that are not"):
        getattr(cl, does)(llama, *([] if does == "merge_adapters" else [tmp_path / "new"]))
    assert not (tmp_path / "new").exists()


def test_no_overflow_in_silence(llama, tmp_path):
    started(llama.half(), cl.CURLoRAConfig(rank=4, alpha=1e9))
    with pytest.raises(ValueError, match=r"merged weight of .*_proj holds .* in torch.float16"):
        cl.merge_adapters(llama)
    cl.add_adapters(llama, cl.CURLoRAConfig(alpha=1e308), "larger than a float")
    with pytest.raises(ValueError, match="alpha times rank: got inf"):
        cl.export_to_peft(llama, tmp_path)
