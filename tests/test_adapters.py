"""Adapters on whole (tiny) models."""

import numpy as np
import pytest
import torch
from small_runs import IDS, METHODS

import curlora_lite as cl

TARGETS = {"llama": ["q_proj", "k_proj", "v_proj"], "gpt2": ["c_attn"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_adding_changes_nothing_and_removing_restores(method, name, dtype, request):
    model, targets = request.getfixturevalue(name).to(dtype), TARGETS[name]
    names = [name for name, _ in model.named_modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    logits = model(IDS).logits
    wrapped = cl.add_adapters(model, METHODS[method](rank=4, target_modules=targets))
    assert wrapped == [name for name, _ in cl.adapter_layers(model)]
    assert len(wrapped) == 2 * len(targets)
    assert torch.equal(model(IDS).logits, logits)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert cl.remove_adapters(model) == wrapped
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_draws_depend_on_seed_and_projection_and_not_on_the_order(llama, method):
    def drawn(**values):
        cl.add_adapters(llama, METHODS[method](rank=4, **values))
        key = {"curlora": "rows", "lora": "A"}[method]
        found = {n: getattr(layer, key).tolist() for n, layer in cl.adapter_layers(llama)}
        cl.remove_adapters(llama)
        return found

    one = drawn(seed=3, target_modules=["q_proj", "v_proj"])
    assert one == drawn(seed=3, target_modules=["v_proj", "q_proj"])
    other = drawn(seed=0, target_modules=["q_proj", "v_proj"])
    assert len(set(map(str, [*one.values(), *other.values()]))) == 8


@pytest.mark.parametrize("method", METHODS)
def test_values_of_numpy_become_plain(method):
    given = {"rank": np.int64(4), "alpha": np.float32(1.5), "seed": np.uint8(3)}
    config = METHODS[method](**given, target_modules=np.array(["q_proj"]))
    assert config == METHODS[method](rank=4, alpha=1.5, seed=3, target_modules=["q_proj"])
    assert type(config.target_modules[0]) is str
    assert [type(getattr(config, name)) for name in given] == [int, float, int]
    for name, value in (("seed", 1.5), ("seed", None), ("rank", "8"), ("alpha", np.bool_(True))):
        with pytest.raises(ValueError, match=f"{name}: got "):
            METHODS[method](**{name: value})
    assert cl.Selection("uniform", np.bool_(True)).replacement is True
