"""A Llama backbone over rows laid end to end, in fewer operations than transformers takes.

The same function as `LlamaModel`'s, up to rounding: what is spared is padding, copies, the
repetition of keys and values, bookkeeping for gradients that nobody asks for, and in the last layer
all that is not read. T tokens of all rows, L of the longest of B rows, D width, d of a head.
"""

import torch
from torch.autograd import Function


def features(backbone, rows):
    """What `training.features` reads at each row's last token: lists of ids -> fp32 (B, D).

    backbone: a `LlamaModel`; which runs are read so, `sequence.packs` says.
    """
    device = backbone.embed_tokens.weight.device
    lengths = torch.tensor([len(row) for row in rows], device=device)
    positions = torch.cat([torch.arange(len(row), device=device) for row in rows])  # (T,)
    x = backbone.embed_tokens(torch.tensor([i for row in rows for i in row], device=device))
    cos, sin = (t[0].unsqueeze(1) for t in backbone.rotary_emb(x, positions[None]))  # (T, 1, d)
    half = cos.shape[-1] // 2
    places = _Places(lengths, positions, cos[..., :half], sin[..., :half], x.dtype)
    *layers, last = backbone.layers[: backbone.config.num_hidden_layers]
    for layer in layers:
        x = _mlp(layer, x + layer.self_attn.o_proj(_attention(layer, x, places)))
    ends = lengths.cumsum(0) - 1
    x = x[ends] + last.self_attn.o_proj(_attention(last, x, places)[ends])
    return _norm(backbone.norm, _mlp(last, x)).float()


class _Places:
    """Where the tokens of rows laid end to end stand in padded rows (B, L), and their rotation."""

    def __init__(self, lengths, positions, cos, sin, dtype):
        self.rows, self.longest = len(lengths), int(lengths.max())
        self.cos, self.sin = cos, sin  # (T, 1, d / 2)
        of_row = torch.arange(self.rows, device=lengths.device).repeat_interleave(lengths)
        self.into = of_row * self.longest + positions  # (T,)
        ahead = torch.full((self.longest, self.longest), torch.finfo(dtype).min, dtype=dtype)
        self.mask = ahead.triu(1).to(lengths.device)  # (L, L)

    def pad(self, x):
        """(T, heads, d) -> (B, L, heads, d), zeros where no token stands."""
        padded = x.new_zeros(self.rows * self.longest, *x.shape[1:])
        return padded.index_copy_(0, self.into, x).view(self.rows, self.longest, *x.shape[1:])

    def flat(self, x):
        """(B, L, heads, d) -> (T, heads, d)."""
        return x.flatten(0, 1).index_select(0, self.into)

    def rotate(self, x, back=False):
        """(T, heads, d): rotary positions, or their inverse."""
        sin = -self.sin if back else self.sin
        (a, b), y = x.chunk(2, -1), torch.empty_like(x)
        first, second = y.chunk(2, -1)
        torch.mul(a, self.cos, out=first).addcmul_(b, sin, value=-1)
        torch.mul(b, self.cos, out=second).addcmul_(a, sin)
        return y


def _attention(layer, x, places):
    """(T, D) -> (T, heads d): what `o_proj` gets."""
    at, h = layer.self_attn, _norm(layer.input_layernorm, x)
    q, k, v = (p(h).unflatten(-1, (-1, at.head_dim)) for p in (at.q_proj, at.k_proj, at.v_proj))
    return _Attention.apply(q, k, v, places, at.scaling).flatten(1)


class _Attention(Function):
    """Causal attention within each row. q (T, heads, d), k and v (T, fewer heads, d).

    Query heads that share keys and values stand below each other in one product.
    """

    @staticmethod
    def forward(ctx, q, k, v, places, scaling):
        kv = k.shape[1]
        Q = _shared(places.pad(places.rotate(q)), kv)  # (B kv, groups L, d)
        K, V = _shared(places.pad(places.rotate(k)), kv), _shared(places.pad(v), kv)  # (B kv, L, d)
        mask = places.mask.repeat(q.shape[1] // kv, 1)  # (groups L, L)
        P = torch.baddbmm(mask, Q, K.mT, alpha=scaling).softmax(-1)
        ctx.places, ctx.scaling, ctx.heads = places, scaling, (q.shape[1], kv)
        ctx.save_for_backward(Q, K, V, P)
        return places.flat(_apart(P @ V, places, q.shape[1]))

    @staticmethod
    def backward(ctx, grad):
        (Q, K, V, P), places, (heads, kv) = ctx.saved_tensors, ctx.places, ctx.heads
        G = _shared(places.pad(grad), kv)
        S = torch.ops.aten._softmax_backward_data(G @ V.mT, P, -1, P.dtype).mul_(ctx.scaling)
        each = ((S @ K, heads), (S.mT @ Q, kv), (P.mT @ G, kv))
        dq, dk, dv = (places.flat(_apart(M, places, n)) for M, n in each)
        return places.rotate(dq, back=True), places.rotate(dk, back=True), dv, None, None


def _shared(x, kv):
    """(B, L, heads, d) -> (B kv, groups L, d)."""
    B, L, heads, d = x.shape
    return x.view(B, L, kv, heads // kv, d).permute(0, 2, 3, 1, 4).reshape(B * kv, -1, d)


def _apart(x, places, heads):
    """(B kv, groups L, d) -> (B, L, heads, d)."""
    B, L = places.rows, places.longest
    return x.reshape(B, heads, L, x.shape[-1]).transpose(1, 2)


def _mlp(layer, x):
    return x + layer.mlp(_norm(layer.post_attention_layernorm, x))


def _norm(module, x):
    return _Norm.apply(x, module.weight, module.variance_epsilon)


class _Norm(Function):
    """x / root mean square, times a frozen weight. x (T, D)."""

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square()
        scale = (square / x.shape[-1] + epsilon).rsqrt()  # (T, 1)
        unit = (wide * scale).to(x.dtype)
        ctx.save_for_backward(unit, scale, weight)
        return unit * weight

    @staticmethod
    def backward(ctx, grad):
        unit, scale, weight = ctx.saved_tensors
        wide = (grad * weight).to(scale.dtype)
        along = (wide * unit).mean(-1, keepdim=True)
        return torch.addcmul(wide, unit, along, value=-1).mul_(scale).to(grad.dtype), None, None
