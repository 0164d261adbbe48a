r"""One wrapped projection: a frozen `nn.Linear` or `Conv1D` plus its adapter (Eq. 1 and Eq. 8).

Shapes: B... any leading axes, in/out the projection's widths, r the rank.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from . import cur, weights
from .checks import known

LORA_INITS = ("authors", "usual")


def adapter_dtype(weight):
    """Adapters train in fp32 whatever the base's dtype, and in fp64 over an fp64 base."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


class AdapterLayer(nn.Module):
    """What both adapters share: the frozen `base`, the factor `alpha`, the orientation.

    Code that looks inside a projection (`weight`, `bias`, `in_features`, …) sees the base's.
    """

    in_features, out_features, nx, nf = (
        property(lambda self, name=name: getattr(self.base, name))
        for name in ("in_features", "out_features", "nx", "nf")
    )
    computed_with = False  # whether the owner computes with `weight`, past `forward`
    _tied_weights_keys = {"base.weight": "base.weight"}  # noqa: RUF012 for `save_pretrained`

    def __init__(self, base, alpha):
        super().__init__()
        self.alpha = float(alpha)
        self.stand_on(base)
        self.transposed = isinstance(base, nn.Linear)  # stored (out, in), the paper's W transposed

    def stand_on(self, base):
        """Take `base` for the frozen projection, if it can be one (see `check`)."""
        self.check(base)
        self.base = base.requires_grad_(False)

    def check(self, base):
        """TypeError for what cannot be a frozen projection."""
        if not isinstance(base, (nn.Linear, Conv1D)):
            raise TypeError(f"base: got {type(base).__name__}, expected nn.Linear or Conv1D")
        if base._parameters.get("weight") is None:
            said = "computed (weight norm, pruning, …), so that nothing could be merged into it"
            raise TypeError(f"base: its weight is {said}; undo that (torch.nn.utils.parametrize)")
        weight, expected = base.weight, weights.shape(base)
        if not weights.quantised(weight):
            if tuple(weight.shape) != expected:
                raise TypeError(
                    f"base: its weight is packed into {tuple(weight.shape)}, expected {expected}; "
                    "quantise with bitsandbytes or torchao"
                )
            if weight.dtype not in weights.PRECISIONS:  # fp8 has scales beside it
                raise TypeError(
                    f"base: its weight is {weight.dtype}, expected a floating type of 16 bits or "
                    "more; quantise with bitsandbytes or torchao"
                )

    def __setattr__(self, name, value):
        if name in ("weight", "bias", "in_features", "out_features", "nx", "nf"):
            setattr(self.base, name, value)
            return
        super().__setattr__(name, value)
        if name == "_hf_hook":  # of accelerate, which would keep what is trained elsewhere
            weights.keep_here(self)

    def _apply(self, fn, recurse=True):
        """Moves and casts of the model: what is trained stays in fp32 (fp64 over fp64)."""
        if recurse:
            self.base._apply(fn)
        derived = [id(buffer) for buffer in self._buffers.values()]

        def moved(tensor):
            found = fn(tensor)
            if tensor.is_meta and not found.is_meta:
                raise ValueError(
                    "model: its adapter was added without weights, on the meta device, and has no "
                    "numbers; remove_adapters, load the weights, then add it"
                )
            dtype = found.dtype if id(tensor) in derived else adapter_dtype(self.base.weight)
            return (found if id(tensor) in derived else tensor).to(found.device, dtype)

        return super()._apply(moved, recurse=False)

    @property
    def weight(self):
        """The base's, as it is stored; where the owner computes with it, W + alpha update."""
        return self.adapted() if self.computed_with else self.base.weight

    @property
    def bias(self):
        """The base's."""
        return weights.parameter(self.base, "bias")

    @property
    def out_in(self):
        """(out, in), the projection's widths."""
        shape = weights.shape(self.base)
        return shape if self.transposed else shape[::-1]

    @property
    def W(self):
        """The frozen weight as stored, detached; fetched and dequantised where it must be."""
        return weights.dense(self.base)

    def update_norm(self):
        r"""||alpha C U R||_F or ||alpha A B||_F, a float. Source: Eq. 14's left side."""
        return abs(self.alpha) * cur.product_norm(*self.factors())

    def adapted(self):
        """W + alpha update, as the base stores it: added in the adapter's dtype, rounded to W's."""
        W = self.W
        return (W.to(adapter_dtype(W)) + self.alpha * self.update()).to(W.dtype)

    def merged_weight(self):
        """`adapted`, detached; ValueError for a quantised base."""
        if weights.quantised(self.base.weight):
            raise ValueError(
                "base: its weight is quantised, and would lose most of an update merged into it; "
                "keep the adapter beside it, or merge into the unquantised model"
            )
        return self.adapted().detach()

    def refresh(self):
        """Bring what depends on the frozen weight up to it: after its device, dtype or values
        changed. What is trained is in fp32 again (fp64 over fp64).
        """
        device = weights.place(self.base)
        self._apply(lambda tensor: tensor.to(device), recurse=False)

    def share_basis(self, other):
        """Hold what is derived from the frozen weight once, where `other` holds the same."""

    def weight_norm(self):
        """||W||_F of the frozen weight, a float."""
        return torch.linalg.vector_norm(self.W, dtype=torch.float64).item()


class CURLoRALinear(AdapterLayer):
    r"""y = x (W + alpha C U R), computed without multiplying by C and R both.

    C and R are columns and rows of W itself, so one of the two products with x is already part of
    the base output x W. With W as PyTorch stores it:

    - `nn.Linear`, W (out, in): x R^T = (x W^T)[..., rows], so y = y0 + alpha (y0[rows] U^T) C^T
    - `Conv1D`, W (in, out): x C = (x W)[..., cols], so y = y0 + alpha (y0[cols] U) R

    where y0 is the base output, its bias taken off before indexing: exact, up to y0's rounding (in
    half precision a bias far larger than x W costs digits).

    Attributes: `base`; `rows`, `cols` int64 (r,), indices into the stored W; `U` (r, r), the one
    Parameter, zeros at the start; `basis` (r, out), C^T or R, a buffer derived from W.
    indices: (rows, cols) to use instead of drawing them by `selection` from `generator`.
    Source: Eq. 5-8.
    """

    def __init__(self, base, rank, alpha=1.0, selection="eq4", *, generator=None, indices=None):
        super().__init__(base, alpha)
        W = self.W
        if indices is None:
            indices = cur.select(W, rank, cur.as_selection(selection), generator)
        rows, cols = (i.to(W.device) for i in indices)
        self.register_buffer("rows", rows)
        self.register_buffer("cols", cols)
        self.U = nn.Parameter(torch.zeros(rank, rank, dtype=adapter_dtype(W), device=W.device))
        self.register_buffer("basis", self._basis(), persistent=False)
        self.register_load_state_dict_post_hook(_refresh_basis)

    def _basis(self):
        return (self.C.T if self.transposed else self.R).contiguous()  # (r, out)

    @property
    def C(self):
        """The chosen columns of the stored W, (a, r). Source: Eq. 5."""
        return self.W[:, self.cols]

    @property
    def R(self):
        """The chosen rows of the stored W, (r, b). Source: Eq. 6."""
        return self.W[self.rows]

    def forward(self, x):
        y = self.base(x)  # (B..., out)
        taps = self.rows if self.transposed else self.cols
        flat = y.reshape(-1, y.shape[-1])  # (n, out)
        # indexing, not index_select: its backward pass is much faster in bf16 on a CPU
        z = flat[:, taps]  # (n, r)
        bias = self.base.bias
        if bias is not None:
            z = z - (self.bias if bias.is_meta else bias)[taps]
        z = F.linear(z.to(self.U.dtype), self.U if self.transposed else self.U.T)
        basis = self.basis.to(y.dtype)  # itself, but where its owner casts weights one by one
        return torch.addmm(flat, z.to(y.dtype), basis, alpha=self.alpha).view_as(y)

    def factors(self):
        """(C, U, R), whose product is W_adapted in the stored orientation. Source: Eq. 8."""
        return self.C, self.U, self.R

    def update(self):
        """C U R in the stored orientation, alpha left out. Source: Eq. 8."""
        return self.C.to(self.U.dtype) @ self.U @ self.R.to(self.U.dtype)

    def as_lora(self):
        """(A (r, in), B (out, r)) of PEFT's LoRA, whose B A is the update as (out, in)."""
        left, right = self.C.to(self.U.dtype) @ self.U, self.R.to(self.U.dtype)
        return (right, left) if self.transposed else (left.T, right.T)

    def refresh(self):
        super().refresh()
        # what is fetched or dequantised is so once, when the adapter is added
        if weights.offload(self.base) is None and not weights.quantised(self.base.weight):
            self.basis = self._basis()

    def check(self, base):
        super().check(base)
        if "rows" in self._buffers:
            last = [int(indices.max()) for indices in (self.rows, self.cols)]
            if any(i >= n for i, n in zip(last, weights.shape(base), strict=True)):
                raise ValueError(
                    f"base: its weight is now {weights.shape(base)}, but the adapter uses row "
                    f"{last[0]} and column {last[1]}; remove the adapter"
                )

    def stand_on(self, base):
        super().stand_on(base)
        if "rows" in self._buffers:
            self.basis = self._basis()

    def share_basis(self, other):
        if not isinstance(other, CURLoRALinear) or self.basis.is_meta:
            return
        own, theirs = (layer.rows if not self.transposed else layer.cols for layer in (self, other))
        same = other.basis.dtype == self.basis.dtype and other.basis.device == self.basis.device
        if same and torch.equal(own, theirs):
            self.basis = other.basis

    def extra_repr(self):
        return f"rank={self.U.shape[0]}, alpha={self.alpha:g}"


def _refresh_basis(layer, _):
    layer.basis = layer._basis()  # the loaded indices may differ from those drawn


class LoRALinear(AdapterLayer):
    r"""y = x W + alpha (x A) B with A (in, r) random and B (r, out) zero at the start.

    init: `authors`, uniform with bound 1/sqrt(r), is what Kaiming initialisation gives when it is
    handed A as (in, r) and takes the second axis for the fan-in, as the author's code does;
    `usual`, bound 1/sqrt(in), is LoRA's own.
    Departure: alpha multiplies directly, as in the paper's code; common LoRA has alpha / r.
    Source: Eq. 1.
    """

    def __init__(self, base, rank, alpha=1.0, init="usual", *, generator):
        super().__init__(base, alpha)
        known("init", init, LORA_INITS)
        cur.check_rank(rank, weights.shape(base))
        n_out, n_in = self.out_in
        bound = 1 / math.sqrt(rank if init == "authors" else n_in)
        dtype, device = adapter_dtype(base.weight), weights.place(base)
        A = torch.rand(n_in, rank, generator=generator, dtype=dtype) * 2 * bound - bound
        self.A = nn.Parameter(A.to(device))
        self.B = nn.Parameter(torch.zeros(rank, n_out, dtype=dtype, device=device))

    def refresh(self):
        super().refresh()
        more = self.out_in[0] - self.B.shape[1]
        if more:  # a resized head: outputs that were not there before get no update
            self.B = nn.Parameter(F.pad(self.B.data, (0, more)), self.B.requires_grad)

    def forward(self, x):
        y = self.base(x)  # (B..., out)
        z = x.to(self.A.device) @ self.A.to(x.dtype)  # (B..., r)
        return y + self.alpha * (z @ self.B.to(x.dtype))

    def factors(self):
        """(A, I, B), whose product is the update as (in, out)."""
        return self.A, torch.eye(self.A.shape[1], device=self.A.device), self.B

    def as_lora(self):
        """(A (r, in), B (out, r)) of PEFT's LoRA, whose B A is the update as (out, in)."""
        return self.A.T, self.B.T

    def update(self):
        """A B in the stored orientation, alpha left out. Source: Eq. 1."""
        update = self.A @ self.B
        return update.T if self.transposed else update

    def extra_repr(self):
        return f"rank={self.A.shape[1]}, alpha={self.alpha:g}"
