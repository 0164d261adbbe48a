"""CURLoRA over int8 and int4 weights (torchao, which `make test-slow` puts aside for this)."""

import copy

import pytest
import torch
from test_works_with import CONFIGS, gradients, loss_of, started

from curlora_lite import adapter_layers, load_adapter, merge_adapters, save_adapter

pytestmark = pytest.mark.slow
quantization = pytest.importorskip("torchao.quantization")

QUANTISED = {
    "int8": quantization.Int8WeightOnlyConfig(),
    "int4": quantization.IntxWeightOnlyConfig(
        weight_dtype=torch.int4, granularity=quantization.granularity.PerGroup(32)
    ),
}


@pytest.mark.parametrize("bits", QUANTISED)
@pytest.mark.parametrize("method", CONFIGS)
def test_a_quantised_base(llama, method, bits, tmp_path):
    """As over the dequantised weights: same draw, same logits and gradients, to fp32 rounding."""
    plain = copy.deepcopy(llama)
    attention = lambda module, name: name.endswith(("q_proj", "k_proj", "v_proj"))  # noqa: E731
    quantization.quantize_(llama, QUANTISED[bits], filter_fn=attention)
    for name, module in plain.named_modules():
        if attention(module, name):
            module.weight.data = llama.get_submodule(name).weight.detach().dequantize()
    for model in (llama, plain):
        started(model, CONFIGS[method])
        loss_of(model).backward()
    torch.testing.assert_close(loss_of(llama), loss_of(plain), rtol=1e-5, atol=1e-6)
    found, expected = gradients(llama), gradients(plain)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-6)
    save_adapter(llama, tmp_path)
    with pytest.raises(ValueError, match="its weight is quantised"):
        merge_adapters(llama)
    assert load_adapter(llama, tmp_path, "again") == [n for n, _ in adapter_layers(llama)]
