r"""One wrapped projection: a frozen `nn.Linear` or `Conv1D` plus its adapter (Eq. 1 and Eq. 8).

Shapes: B... any leading axes, in/out the projection's widths, r the rank.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from . import cur
from .checks import known

LORA_INITS = ("authors", "usual")


def adapter_dtype(weight):
    """Adapters train in fp32 whatever the base's dtype, and in fp64 over an fp64 base."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def quantised(weight):
    """Whether a weight is one of torchao's quantised tensors, which keep shape and dtype."""
    return type(weight.detach()) is not torch.Tensor


class AdapterLayer(nn.Module):
    """What both adapters share: the frozen `base`, the factor `alpha`, the orientation."""

    def __init__(self, base, alpha):
        super().__init__()
        if not isinstance(base, (nn.Linear, Conv1D)):
            raise TypeError(f"base: got {type(base).__name__}, expected nn.Linear or Conv1D")
        if isinstance(base, nn.Linear):
            found, expected = tuple(base.weight.shape), (base.out_features, base.in_features)
            if found != expected:
                raise TypeError(
                    f"base: its weight is packed into {found}, expected {expected}; quantise with "
                    "torchao, which keeps shapes"
                )
        if not base.weight.is_floating_point():
            raise TypeError(f"base: its weight is {base.weight.dtype}, expected a floating type")
        self.base = base.requires_grad_(False)
        self.alpha = float(alpha)
        self.transposed = isinstance(base, nn.Linear)  # stored (out, in), the paper's W transposed

    @property
    def out_in(self):
        """(out, in), the projection's widths."""
        shape = self.base.weight.shape
        return tuple(shape) if self.transposed else tuple(shape)[::-1]

    @property
    def W(self):
        """The frozen weight as stored, detached; dequantised where it is quantised."""
        weight = self.base.weight.detach()
        return weight.dequantize() if quantised(weight) else weight

    def update_norm(self):
        r"""||alpha C U R||_F or ||alpha A B||_F, a float. Source: Eq. 14's left side."""
        return abs(self.alpha) * cur.product_norm(*self.factors())

    def merged_weight(self):
        """W + alpha update, as the base stores it: added in the adapter's dtype, rounded to W's."""
        if quantised(self.base.weight):
            raise ValueError(
                "base: its weight is quantised, and would lose most of an update merged into it; "
                "keep the adapter beside it, or merge into the unquantised model"
            )
        W, dtype = self.W, adapter_dtype(self.base.weight)
        with torch.no_grad():
            return (W.to(dtype) + self.alpha * self.update()).to(W.dtype)

    def refresh(self):
        """Bring what depends on the frozen weight up to it: after its dtype or values changed.

        What is trained is in fp32 again (fp64 over fp64), should the whole model have been cast.
        """
        dtype = adapter_dtype(self.base.weight)
        for parameter in self.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)

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

    where y0 is the base output, its bias taken off before indexing. This is exact.

    Attributes: `base`; `rows`, `cols` int64 (r,), indices into the stored W; `U` (r, r), the one
    Parameter, zeros at the start; `alpha`; `basis` (r, out), C^T or R, a buffer derived from W.
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
        if self.base.bias is not None:
            z = z - self.base.bias[taps]
        z = F.linear(z.to(self.U.dtype), self.U if self.transposed else self.U.T)
        return torch.addmm(flat, z.to(y.dtype), self.basis, alpha=self.alpha).view_as(y)

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
        W = base.weight
        cur.check_rank(rank, W.shape)
        n_out, n_in = self.out_in
        bound = 1 / math.sqrt(rank if init == "authors" else n_in)
        A = torch.rand(n_in, rank, generator=generator, dtype=adapter_dtype(W)) * 2 * bound - bound
        self.A = nn.Parameter(A.to(W.device))
        self.B = nn.Parameter(torch.zeros(rank, n_out, dtype=A.dtype, device=W.device))

    def forward(self, x):
        y = self.base(x)  # (B..., out)
        z = x @ self.A.to(x.dtype)  # (B..., r)
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
