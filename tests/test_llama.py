"""The backbone over rows laid end to end, beside transformers' own forward and backward pass."""

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from curlora_lite import CURLoRAConfig, LoRAConfig, add_adapters
from curlora_lite.replication import llama
from curlora_lite.training import features, pad

ROWS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3], [1], [3, 4, 5, 6]]


def backbone(kv, dtype=torch.float32):
    """Four query heads over `kv` heads of keys and values; norms that are not one."""
    torch.manual_seed(kv)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": kv}
    model = LlamaModel(LlamaConfig(**sizes, **heads, attn_implementation="eager"))
    for name, parameter in model.named_parameters():
        parameter.data = torch.rand(32) + 0.5 if "norm" in name else 4 * parameter.data
    return model.requires_grad_(False).eval().to(dtype)


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("config", [CURLoRAConfig(4, seed=3), LoRAConfig(4, seed=3)])
def test_features_and_gradients_are_those_of_each_row_alone(kv, config):
    model = backbone(kv)
    add_adapters(model, config)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for p in trained.values():
        p.data += 0.3 * torch.randn(p.shape)
    weights = torch.randn(len(ROWS), 32)

    alone = torch.cat([model(torch.tensor([row])).last_hidden_state[:, -1] for row in ROWS])
    expected = torch.autograd.grad((alone * weights).sum(), trained.values())
    together = llama.features(model, ROWS)
    found = torch.autograd.grad((together * weights).sum(), trained.values())

    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    for name, theirs, ours in zip(trained, expected, found, strict=True):
        assert theirs.abs().max() > 1e-3, name
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def test_in_bf16_it_is_as_near_the_exact_states_as_padded_rows_are():
    exact, model = llama.features(backbone(2), ROWS), backbone(2, torch.bfloat16)
    with torch.no_grad():
        ours = llama.features(model, ROWS)
        theirs = (features(model, *pad(ROWS, 0, "cpu")) - exact).abs().max()
    assert ours.dtype == torch.float32 and 0 < (ours - exact).abs().max() < 1.5 * theirs
