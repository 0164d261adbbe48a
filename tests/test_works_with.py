"""Adapters together with what people use beside them: dtypes, checkpointing, compile, Trainer, …"""

import copy

import pytest
import torch

from curlora_lite import CURLoRAConfig, LoRAConfig, adapter_layers, add_adapters

IDS = torch.tensor([[1, 5, 9, 3, 7, 2], [2, 2, 8, 60, 4, 11]])
CONFIGS = {"curlora": CURLoRAConfig(rank=4, seed=3), "lora": LoRAConfig(rank=4, seed=3)}


def loss_of(model, ids=IDS):
    return model(input_ids=ids, labels=ids).loss


def started(model, config, scale=0.1):
    """Adapters with seeded values, so that gradients reach every part."""
    add_adapters(model, config)
    generator = torch.Generator().manual_seed(0)
    for _, layer in adapter_layers(model):
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return model


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", CONFIGS)
def test_half_precision_weights_train_fp32_adapters(llama, method, dtype):
    """Gradients within 5 % of fp32's: two layers' roundings of 8 (11) bits."""
    half = started(copy.deepcopy(llama).to(dtype), CONFIGS[method])
    full = started(llama, CONFIGS[method])
    for model in (half, full):
        loss_of(model).backward()
    found, expected = gradients(half), gradients(full)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() < 0.05 * expected[name].norm()


def test_packed_weights_are_refused_with_a_reason(llama):
    """As other libraries than bitsandbytes pack one: its rows and columns cannot be indexed."""
    projection = llama.model.layers[0].self_attn.q_proj
    projection.weight = torch.nn.Parameter(torch.zeros(512, 1), requires_grad=False)
    with pytest.raises(TypeError, match=r"packed into \(512, 1\), expected \(32, 32\); quantise"):
        add_adapters(llama, CURLoRAConfig(rank=1))
