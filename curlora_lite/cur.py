r"""The CUR mathematics of the paper as pure functions: Eq. 3-7 and the norms of Eq. 8 and 14.

Orientation: every function takes W as PyTorch stores it, (a, b). "Rows" are W[i, :] and "columns"
W[:, j] of that stored matrix, so C = W[:, cols] is (a, r) and R = W[rows, :] is (r, b). For
`Conv1D`, stored (in, out), this is the paper's W; for `nn.Linear`, stored (out, in), its transpose.
"""

from dataclasses import dataclass

import torch

from .checks import known

WEIGHTINGS = ("inverted", "smoothed", "uniform", "importance")
SMOOTHING = 0.001  # the constant in the author's code
BLOCK = 16  # rows


@dataclass(frozen=True)
class Selection:
    """How rows and columns are drawn.

    weighting: `inverted` (Eq. 4), `smoothed` (1 / (p + 0.001), the author's code), `uniform`, or
        `importance` (Eq. 3 itself: large norms preferred).
    replacement: whether one row or column may be drawn more than once.
    """

    weighting: str = "inverted"
    replacement: bool = False

    def __post_init__(self):
        known("weighting", self.weighting, WEIGHTINGS)
        known("replacement", self.replacement, (True, False))
        object.__setattr__(self, "replacement", bool(self.replacement))


# The two that the paper stands for: its text, and the code its tables came from.
SELECTIONS = {"eq4": Selection("inverted", False), "authors": Selection("smoothed", True)}


def as_selection(selection):
    """Turn a name in `SELECTIONS`, or a `Selection`, into a `Selection`; ValueError otherwise."""
    if isinstance(selection, Selection):
        return selection
    if selection not in tuple(SELECTIONS):
        names = ", ".join(SELECTIONS)
        raise ValueError(f"selection: got {selection!r}, expected a Selection or one of {names}")
    return SELECTIONS[selection]


def squared_norms(W):
    """Squared 2-norms of W's rows and of its columns, in fp64 on the CPU.

    W (a, b), any floating dtype and device -> (a,), (b,). The sums run in fp64 so that every
    device gives the same figures to fp64 rounding, hence draws the same indices. One pass: a few
    rows at a time are in fp64, which stay in a core's cache.
    """
    W, rows, columns = W.detach(), [], 0
    squares = torch.empty(BLOCK, W.shape[1], dtype=torch.float64, device=W.device)
    for block in W.split(BLOCK):
        square = squares[: len(block)].copy_(block).square_()
        rows.append(square.sum(1))
        columns = columns + square.sum(0)
    return torch.cat(rows).cpu(), columns.cpu()


def probabilities(W, dim):
    r"""p_j = ||W_{:,j}||^2 / ||W||_F^2 for columns (`dim=1`); rows (`dim=0`) likewise.

    W (a, b) -> fp64 (a,) or (b,) that sums to 1. ValueError if W is all zeros or not finite.
    Source: Eq. 3.
    """
    return _shares(squared_norms(W)[dim])


def _shares(squares):
    total = squares.sum()
    if not (torch.isfinite(total) and total > 0):
        raise ValueError(f"W: its squared norm is {total.item()}, expected finite and above zero")
    return squares / total


def inverted(p):
    r"""q_j = (1/p_j) / sum_i (1/p_i): small norms are preferred.

    p (n,) -> q (n,) that sums to 1.
    Departure: a zero p_j, where Eq. 4 divides by zero, gets q_j = 0. Such a column or row is all
    zeros and could carry nothing.
    Source: Eq. 4.
    """
    inverse = torch.where(p > 0, 1 / p, torch.zeros_like(p))
    return inverse / inverse.sum()


def smoothed(p, constant=SMOOTHING):
    """q_j proportional to 1 / (p_j + constant), as the author's code has it in place of Eq. 4."""
    inverse = 1 / (p + constant)
    return inverse / inverse.sum()


def draw_probabilities(p, weighting):
    """The probabilities that are drawn from: p (n,) from Eq. 3 -> q (n,) by `weighting`."""
    if weighting == "inverted":
        return inverted(p)
    if weighting == "smoothed":
        return smoothed(p)
    if weighting == "uniform":
        return torch.full_like(p, 1 / len(p))
    return p


def draw(q, rank, replacement, generator):
    """Draw `rank` indices by q (n,): int64 (rank,) on the CPU; ValueError if q has too few."""
    available = int((q > 0).sum())
    if not replacement and available < rank:
        raise ValueError(
            f"rank: got {rank}, but only {available} of {len(q)} rows or columns have a norm above "
            "zero; expected no more than these when drawing without replacement"
        )
    return torch.multinomial(q, rank, replacement, generator=generator)


def check_rank(rank, shape):
    """ValueError unless 1 <= rank <= the smaller side of a projection of this shape."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(shape):
        raise ValueError(
            f"rank: got {rank!r}, expected a whole number from 1 to {min(shape)} "
            f"for a projection of shape {tuple(shape)}"
        )


def select(W, rank, selection, generator):
    """Draw the rows and columns that make R = W[rows, :] and C = W[:, cols].

    W (a, b); `generator` a CPU `torch.Generator`, so that draws do not depend on W's device.
    Returns (rows, cols), int64 (rank,) each, on W's device. On the meta device, where there are no
    norms, empty index vectors of the right shape. ValueError for a rank that W does not allow.
    Source: Eq. 5-6.
    """
    check_rank(rank, W.shape)
    if W.is_meta:
        return tuple(torch.empty(rank, dtype=torch.long, device="meta") for _ in range(2))
    indices = []
    for squares in squared_norms(W):
        q = draw_probabilities(_shares(squares), selection.weighting)
        indices.append(draw(q, rank, selection.replacement, generator).to(W.device))
    return tuple(indices)


def product_norm(left, middle, right):
    r"""||L M R||_F without forming the product, in fp64.

    left (a, r), middle (r, r), right (r, b) -> float. The cost is that of two r x r Gram matrices:
    ||L M R||_F^2 = tr(M^T (L^T L) M (R R^T)).
    Source: the left side of Eq. 14, for Eq. 8's W_adapted = C U R.
    """
    left, middle, right = (t.detach().double() for t in (left, middle, right))
    square = (middle.T @ (left.T @ left) @ middle * (right @ right.T).T).sum()
    return square.clamp_min(0).sqrt().item()


def norm(M):
    """||M||_F in fp64, a float."""
    return torch.linalg.vector_norm(M.detach(), dtype=torch.float64).item()
