"""SmolLM2 with its query, key and value projections fused into one `Conv1D`, as GPT-2 has them.

The same function of the same weights: only the projection that an adapter decomposes is another.
It stands in for GPT-2 Large in Table 2.
"""

import torch
from transformers import Phi3Config, Phi3ForCausalLM
from transformers.pytorch_utils import Conv1D

DROPOUT = 0.1  # GPT-2's. Departure: not on the embeddings, where Phi-3 has none.
COPIED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps")
COPIED += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
COPIED += ("rope_parameters", "tie_word_embeddings", "bos_token_id", "eos_token_id")


def fuse(model):
    """A `LlamaForCausalLM` -> a `Phi3ForCausalLM` of the same function, in evaluation mode.

    Each layer's q_proj, k_proj and v_proj become one `Conv1D` called `qkv_proj`, stored (in, out)
    = (D, D + 2 kv) with a zero bias. The MLP's gate and up are copied into one as well; the other
    weights are shared. Dropout of 0.1 is on attention and residuals, off until the model trains.
    """
    theirs = model.config
    sizes = {name: getattr(theirs, name) for name in COPIED}
    sizes["original_max_position_embeddings"] = theirs.max_position_embeddings
    sizes["pad_token_id"] = 0  # its default lies outside this vocabulary
    dropout = {"resid_pdrop": DROPOUT, "attention_dropout": DROPOUT}
    config = Phi3Config(**sizes, **dropout, attn_implementation=theirs._attn_implementation)
    with torch.device("meta"):
        fused = Phi3ForCausalLM(config)
    weights = model.state_dict()
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        for into, names in (("qkv_proj", "qkv"), ("gate_up_proj", ("gate", "up"))):
            owner = f"{layer}.self_attn" if into == "qkv_proj" else f"{layer}.mlp"
            parts = [weights.pop(f"{owner}.{name}_proj.weight") for name in names]
            weights[f"{owner}.{into}.weight"] = torch.cat(parts)  # (out, in)
    fused.load_state_dict(weights, assign=True)
    fused.model.rotary_emb = model.model.rotary_emb  # its buffer is in no state dict
    fused.tie_weights()
    for layer in fused.model.layers:
        layer.self_attn.qkv_proj = _conv1d(layer.self_attn.qkv_proj.weight)
    return fused.requires_grad_(False).eval()


def _conv1d(weight):
    """The `Conv1D` of an `nn.Linear`'s weight (out, in), without a bias of its own."""
    n_out, n_in = weight.shape
    with torch.device("meta"):
        conv = Conv1D(n_out, n_in)
    conv.weight = torch.nn.Parameter(weight.detach().T.contiguous())
    conv.bias = torch.nn.Parameter(torch.zeros(n_out, dtype=weight.dtype, device=weight.device))
    return conv
