"""Over int8 and 4-bit weights of torchao and bitsandbytes, which `make test-slow` puts aside."""

import pytest
import torch
from test_works_with import CONFIGS, IDS, gradients, loss_of, started
from transformers import LlamaConfig, LlamaForCausalLM

import curlora_lite as cl

pytestmark = pytest.mark.slow
quantization = pytest.importorskip("torchao.quantization")
bitsandbytes = pytest.importorskip("bitsandbytes")

PER_GROUP = quantization.granularity.PerGroup(32)
TORCHAO = {
    "int8": quantization.Int8WeightOnlyConfig(),
    "int4": quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PER_GROUP),
}
BITSANDBYTES = {
    "nf4": lambda a, b: bitsandbytes.nn.Linear4bit(a, b, False, quant_type="nf4"),
    "fp4": lambda a, b: bitsandbytes.nn.Linear4bit(a, b, False, compress_statistics=False),
    "LLM.int8": lambda a, b: bitsandbytes.nn.Linear8bitLt(a, b, False, has_fp16_weights=False),
}


def made(bits):
    """A Llama whose attention is quantised, and evaluated once, as most are before training."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4)).eval()
    for owner in [layer.self_attn for layer in model.model.layers]:
        for child in ("q_proj", "k_proj", "v_proj"):
            bare = getattr(owner, child)
            if bits in TORCHAO:
                quantization.quantize_(bare, TORCHAO[bits])
            elif bits:
                packed = BITSANDBYTES[bits](bare.in_features, bare.out_features)
                packed.load_state_dict(bare.state_dict())
                setattr(owner, child, packed.to("cpu").eval())
    with torch.no_grad():
        model(input_ids=IDS)
    return model


@pytest.mark.parametrize("bits", [*TORCHAO, *BITSANDBYTES])
@pytest.mark.parametrize("method", CONFIGS)
def test_a_quantised_base(method, bits, tmp_path):
    """As over the dequantised weights: same draw, same logits and gradients, to fp32 rounding.

    LLM.int8 rounds what goes in to 8 bits as well, 0.4 %.
    """
    off = 0.05 if bits == "LLM.int8" else 1e-5
    model = started(made(bits), CONFIGS[method])
    plain = made(None)
    for name, layer in cl.adapter_layers(model):
        plain.get_submodule(name).weight.data = layer.W.float()
    started(plain, CONFIGS[method])
    with torch.no_grad():  # an evaluation between steps
        torch.testing.assert_close(loss_of(model), loss_of(plain), rtol=off / 10, atol=1e-6)
    for one in (model, plain):
        loss_of(one).backward()
    found, expected = gradients(model), gradients(plain)
    assert found.keys() == expected.keys()
    for name in expected:
        assert (found[name] - expected[name]).norm() < off * expected[name].norm()
    cl.save_adapter(model, tmp_path)
    with pytest.raises(ValueError, match="its weight is quantised"):
        cl.merge_adapters(model)
    cl.load_adapter(made(bits), tmp_path, check_base="exact")
    with pytest.raises(cl.AdapterFileError, match="is not the one this adapter was trained on"):
        cl.load_adapter(made(None), tmp_path)
    cl.load_adapter(made(None), tmp_path, check_base="shapes")
