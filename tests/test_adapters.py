"""Adapters on whole (tiny) models."""

import numpy as np
import pytest
import torch

from curlora_lite import CURLoRAConfig, LoRAConfig, Selection, add_adapters, count_trainable
from curlora_lite.adapters import adapter_layers, remove_adapters

CONFIGS = {"curlora": CURLoRAConfig, "lora": LoRAConfig}
TARGETS = {"llama": ["q_proj", "k_proj", "v_proj"], "gpt2": ["c_attn"]}


@pytest.fixture(params=["llama", "gpt2"])
def case(request):
    return request.getfixturevalue(request.param), TARGETS[request.param]


IDS = torch.tensor([[1, 5, 9, 3, 7], [2, 2, 8, 60, 4]])


@pytest.mark.parametrize("method", CONFIGS)
def test_adding_changes_nothing_and_removing_restores(method, case):
    model, targets = case
    names = [name for name, _ in model.named_modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    logits = model(IDS).logits
    wrapped = add_adapters(model, CONFIGS[method](rank=4, target_modules=targets))
    assert wrapped == [name for name, _ in adapter_layers(model)]
    assert len(wrapped) == 2 * len(targets)
    assert torch.equal(model(IDS).logits, logits)
    assert remove_adapters(model) == wrapped
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", CONFIGS)
def test_only_the_adapter_gets_gradients(method, case):
    model, targets = case
    add_adapters(model, CONFIGS[method](rank=4, target_modules=targets))
    model(IDS).logits.square().mean().backward()
    with_grad = {
        name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if p.grad is not None
    }
    assert with_grad == {"curlora": {"U"}, "lora": {"A", "B"}}[method]


def test_counts(llama, gpt2):
    # llama: q 32 -> 32, k and v 32 -> 16, two layers; gpt2: c_attn 32 -> 96, two layers
    add_adapters(llama, LoRAConfig(rank=4))
    assert count_trainable(llama) == 2 * 4 * ((32 + 32) + 2 * (32 + 16))
    add_adapters(gpt2, CURLoRAConfig(rank=4, target_modules=["c_attn"]))
    assert count_trainable(gpt2) == 2 * 4 * 4


def test_every_seed_draws_anew(llama):
    for config in CONFIGS.values():
        drawn = []
        for seed in (0, 3):
            add_adapters(llama, config(rank=4, seed=seed))
            drawn.append([layer.state_dict() for _, layer in adapter_layers(llama)])
            remove_adapters(llama)
        for one, other in zip(*drawn, strict=True):
            assert any(not torch.equal(one[key], other[key]) for key in ("rows", "A") if key in one)


def test_same_seed_same_adapter_whatever_the_order(llama):
    drawn = []
    for targets in (["q_proj", "v_proj"], ["v_proj", "q_proj"]):
        add_adapters(llama, CURLoRAConfig(rank=4, target_modules=targets, seed=3))
        drawn.append({n: (m.rows.tolist(), m.cols.tolist()) for n, m in adapter_layers(llama)})
        remove_adapters(llama)
    assert drawn[0] == drawn[1]
    assert len({tuple(rows) for rows, _ in drawn[0].values()}) > 1  # projections differ


def test_target_that_matches_nothing_lists_what_there_is(llama):
    with pytest.raises(ValueError, match="'c_attn' matches no .*down_proj.*k_proj.*q_proj"):
        add_adapters(llama, LoRAConfig(target_modules=["q_proj", "c_attn"]))
    with pytest.raises(ValueError, match="'proj' matches no"):  # a part of a name is not enough
        add_adapters(llama, LoRAConfig(target_modules=["proj"]))
    assert not list(adapter_layers(llama))


def test_rank_too_large_leaves_the_model_alone(llama):
    with pytest.raises(ValueError, match="rank: got 17, expected a whole number from 1 to 16"):
        add_adapters(llama, CURLoRAConfig(rank=17))
    assert not list(adapter_layers(llama)) and count_trainable(llama) > 0


def test_a_projection_of_zeros_leaves_the_model_trainable(llama):
    """The last of the wrapped ones is refused, when others have been wrapped already."""
    llama.model.layers[1].self_attn.v_proj.weight.data.zero_()
    before = count_trainable(llama)
    with pytest.raises(ValueError, match="its squared norm is 0.0"):
        add_adapters(llama, CURLoRAConfig(rank=2))
    assert count_trainable(llama) == before and not list(adapter_layers(llama))


def test_twice_is_refused(llama):
    add_adapters(llama, LoRAConfig(rank=2))
    with pytest.raises(ValueError, match="has an adapter 'default' already"):
        add_adapters(llama, LoRAConfig(rank=2))


@pytest.mark.parametrize("method", CONFIGS)
def test_values_of_numpy_become_plain(method):
    given = {"rank": np.int64(4), "alpha": np.float32(1.5), "seed": np.uint8(3)}
    config = CONFIGS[method](**given)
    assert config == CONFIGS[method](rank=4, alpha=1.5, seed=3)
    assert [type(getattr(config, name)) for name in given] == [int, float, int]
    for name, value in (("seed", 1.5), ("seed", None), ("rank", "8"), ("alpha", np.bool_(True))):
        with pytest.raises(ValueError, match=f"{name}: got "):
            CONFIGS[method](**{name: value})
    assert Selection("uniform", np.bool_(True)).replacement is True
