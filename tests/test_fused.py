"""The fused form of a model: the same function, in another shape. Oracle: the plain Llama."""

import pytest
import torch
from small_runs import relative, tiny_llama
from transformers import LlamaForCausalLM

from curlora_lite.replication import fused


def plain(tied=True, **changes):
    """A tiny Llama with grouped-query attention, changed as named."""
    config = tiny_llama().config
    config.tie_word_embeddings = tied
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(1)
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("theta", [10_000.0, 123.0])
def test_logits_equal_the_plain_models(attention, tied, theta):
    """To fp32 rounding, over rows long enough for positions to matter."""
    rope = {"rope_type": "default", "rope_theta": theta}
    model = plain(tied, rope_parameters=rope)
    model.set_attn_implementation(attention)
    ids = torch.randint(1, 64, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(ids).logits
        other = fused.fuse(model)
        assert relative(other(ids).logits, expected) < 2e-6
        assert torch.equal(model(ids).logits, expected)  # the plain one is as it was
    tie = other.lm_head.weight is other.model.embed_tokens.weight
    assert tie == tied
    assert other.config.rope_parameters["rope_theta"] == theta
    assert other.config._attn_implementation == attention


def test_dropout_is_on_in_training_alone():
    """As GPT-2's: on attention and on what is added to the residual stream."""
    model, ids = fused.fuse(plain()), torch.tensor([[1, 2, 3]])
    expected = model(ids).logits
    assert torch.equal(model(ids).logits, expected)
    layer = model.model.layers[0]
    rates = [layer.self_attn.attention_dropout, layer.resid_attn_dropout.p]
    assert [*rates, layer.resid_mlp_dropout.p] == [0.1, 0.1, 0.1]
    torch.manual_seed(0)
    assert not torch.allclose(model.train()(ids).logits, expected)
    assert torch.equal(model.eval()(ids).logits, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_weights_are_kept(dtype):
    model = plain().to(dtype)
    other = fused.fuse(model)
    assert {p.dtype for p in other.parameters()} == {dtype}
    assert not any(t.is_meta for t in (*other.parameters(), *other.buffers()))
    shared = other.model.layers[0].self_attn.o_proj.weight
    assert shared.data_ptr() == model.model.layers[0].self_attn.o_proj.weight.data_ptr()
