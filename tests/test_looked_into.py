"""Code that looks inside a projection, or past it: T5, Mamba, BERT, `nn.Transformer…`, resizing."""

import pytest
import torch
from small_runs import IDS, METHODS, close, tiny
from test_works_with import gradients, started
from torch import nn
from torch.nn.utils import parametrizations, prune

import curlora_lite as cl

# projections: those its code reads, or computes with past their forward
MODELS = {"T5ForConditionalGeneration": ["q", "wi_0", "wo"]}
MODELS |= {"MambaForCausalLM": ["in_proj", "x_proj", "dt_proj", "out_proj"]}
MODELS |= {"BertForMaskedLM": ["query", "value", "dense"]}


def check(model, config, output):
    """Starts at the base; each adapter gets a gradient; merged is the same, in both modes."""
    base = output(model)
    started(model, config, scale=0.3)
    adapted = output(model)
    adapted.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    assert gradients(model) and not close(adapted, base)
    with torch.no_grad():  # where fused paths are taken
        assert close(output(model), adapted)
        with cl.disable_adapters(model):
            assert close(output(model), base)
        cl.merge_adapters(model)
        assert close(output(model), adapted)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_projections_that_are_looked_into(method, name):
    model = tiny(name, feed_forward_proj="gated-gelu")
    more = {"decoder_input_ids": IDS} if name.startswith("T5") else {}
    adapter = METHODS[method](rank=2, target_modules=MODELS[name])
    check(model, adapter, lambda model: model(input_ids=IDS, **more).logits)


def test_an_export_names_what_peft_would_leave_out(tmp_path):
    model = tiny("MambaForCausalLM")
    cl.add_adapters(model, cl.CURLoRAConfig(rank=2, target_modules=["dt_proj", "in_proj"]))
    with pytest.warns(UserWarning, match=r"of \S+0\.mixer\.dt_proj, \S+1\.mixer\.dt_proj thems"):
        cl.export_to_peft(model, tmp_path)


@pytest.mark.parametrize("targets", [["out_proj"], ["linear1", "linear2"]])
@pytest.mark.parametrize("method", METHODS)
def test_owners_that_go_past_a_projections_forward(method, targets):
    """`nn.MultiheadAttention` and the fast path of `nn.TransformerEncoder` take its weight."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True)
    model, x = nn.TransformerEncoder(block, 2).eval(), torch.randn(2, 5, 32)
    check(model, METHODS[method](rank=4, target_modules=targets), lambda model: model(x))


def test_a_wrapped_projection_shows_what_the_bare_one_has(llama, gpt2):
    bare = llama.model.layers[0].self_attn.k_proj, gpt2.transformer.h[0].attn.c_attn
    cl.add_adapters(llama, cl.CURLoRAConfig(rank=4))
    cl.add_adapters(gpt2, cl.LoRAConfig(rank=4, target_modules=["c_attn"]))
    linear, conv = llama.model.layers[0].self_attn.k_proj, gpt2.transformer.h[0].attn.c_attn
    shown = {linear: ("in_features", "out_features"), conv: ("nx", "nf")}
    for one, module in zip(bare, shown, strict=True):
        for name in ("weight", "bias", *shown[module]):
            assert getattr(module, name) is getattr(one, name)
        assert not hasattr(module, "nf") or module is conv


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_more_tokens_under_a_wrapped_head(gpt2, llama, method, tied):
    """Logits of the tokens there were stay; the head is wrapped again; switching and merging go."""
    model = gpt2 if tied else llama
    started(model, METHODS[method](rank=4, target_modules=["lm_head"]))
    before = model(input_ids=IDS).logits
    model.resize_token_embeddings(70)
    after = model(input_ids=IDS).logits
    assert after.shape[-1] == 70 and isinstance(model.lm_head.base, nn.Linear)
    torch.testing.assert_close(after[..., :64], before)
    with cl.disable_adapters(model):
        assert model(input_ids=IDS).logits.shape[-1] == 70
    after.sum().backward()
    assert torch.equal(model(input_ids=IDS).logits, after) and gradients(model)
    if not tied:
        cl.merge_adapters(model)
        with pytest.raises(ValueError, match="is merged; call unmerge_adapters first"):
            model.resize_token_embeddings(80)


def test_a_head_too_small_for_the_rows_in_use_is_refused_each_time(llama):
    """The adapter is off then, until the head is large enough again."""
    started(llama, cl.CURLoRAConfig(rank=4, target_modules=["lm_head"]))
    does = [lambda: llama.resize_token_embeddings(3), lambda: cl.set_adapter(llama, "default")]
    for step in does:
        with pytest.raises(ValueError, match=r"its weight is now \(3, 32\), but the adapter uses"):
            step()
        assert cl.active_adapter(llama) is None and isinstance(llama.lm_head, nn.Linear)
    llama.resize_token_embeddings(64)
    cl.set_adapter(llama, "default")


SPOILED = {  # the last as other libraries than bitsandbytes pack one
    parametrizations.weight_norm: "its weight is computed",
    nn.utils.weight_norm: "its weight is computed",
    lambda m: prune.random_unstructured(m, "weight", 0.5): "its weight is computed",
    lambda m: m.weight.data.zero_(): "its squared norm is 0.0",
    lambda m: setattr(m, "weight", nn.Parameter(torch.zeros(9, 1))): r"packed into \(9, 1\), expec",
    lambda m: setattr(m, "weight", nn.Parameter(m.weight.to(torch.float8_e4m3fn), False)): "float8",
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_what_cannot_be_wrapped_is_named(llama, spoil):
    """The last of all, when others have been wrapped already: the model is as it was."""
    spoil(llama.model.layers[1].self_attn.v_proj)
    before = cl.count_trainable(llama)
    message = f"layers.1.self_attn.v_proj: .*{SPOILED[spoil]}"
    with pytest.raises((TypeError, ValueError), match=message):
        cl.add_adapters(llama, cl.CURLoRAConfig(rank=4))
    assert not list(cl.adapter_layers(llama)) and cl.count_trainable(llama) == before > 0
