r"""What the audit sets beside CURLoRA: LoRA-XS, of as many parameters in another basis."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .. import cur
from ..configs import AdapterConfig
from ..layers import AdapterLayer, adapter_dtype


class LoRAXSLinear(AdapterLayer):
    r"""y = x (W + alpha L M R) with M (r, r) trained from zero between frozen singular factors.

    With W = P S Q^T, stored (a, b): L = P_r S_r (a, r) and R = Q_r^T (r, b), of the r largest
    singular values. Departure: M starts at zero, as CURLoRA's U does, not at small random values.
    Source: Balazy et al. 2024 (arXiv 2405.17604), Eq. 2.
    """

    def __init__(self, base, rank, alpha=1.0):
        super().__init__(base, alpha)
        W, dtype = self.W, adapter_dtype(base.weight)
        cur.check_rank(rank, W.shape)
        P, S, Qh = torch.linalg.svd(W.to(dtype), full_matrices=False)
        self.register_buffer("L", (P[:, :rank] * S[:rank]).to(W.dtype))
        self.register_buffer("R", Qh[:rank].to(W.dtype).contiguous())
        self.M = nn.Parameter(torch.zeros(rank, rank, dtype=dtype, device=W.device))

    def forward(self, x):
        first, last = (self.R, self.L) if self.transposed else (self.L.T, self.R.T)
        middle = self.M if self.transposed else self.M.T
        z = F.linear(F.linear(x, first).to(self.M.dtype), middle)  # (B..., r)
        return self.base(x) + self.alpha * F.linear(z.to(x.dtype), last)

    def factors(self):
        """(L, M, R), whose product is the update in the stored orientation."""
        return self.L, self.M, self.R

    def update(self):
        """L M R in the stored orientation, alpha left out."""
        return self.L.to(self.M.dtype) @ self.M @ self.R.to(self.M.dtype)


@dataclass(frozen=True)
class LoRAXSConfig(AdapterConfig):
    """LoRA-XS of the target projections; the seed has no effect."""

    def wrap(self, _, base):
        """The layer for the projection `base`."""
        return LoRAXSLinear(base, self.rank, self.alpha)
