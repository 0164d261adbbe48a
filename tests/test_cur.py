"""Eq. 3-7 and 14 against hand-worked numbers and dense formulas."""

import numpy as np
import pytest
import torch

from curlora_lite import cur


def worked_example():
    """§4.2's example: columns with norms 2, 3 and 5, so squared 4, 9, 25 of 38."""
    return torch.tensor([[2.0, 0.0, 3.0], [0.0, 3.0, 4.0]])


def test_the_worked_example_of_section_4_2():
    """1/p = 38/4, 38/9, 38/25: over their common denominator 900, 225, 100 and 36 of 361. Rows,
    over the other axis: 13 and 25 of 38."""
    p = cur.probabilities(worked_example(), dim=1)
    assert p.tolist() == pytest.approx([4 / 38, 9 / 38, 25 / 38], abs=1e-12)
    expected = [225 / 361, 100 / 361, 36 / 361]
    assert cur.draw_probabilities(p, "inverted").tolist() == pytest.approx(expected, abs=1e-12)
    authors = (1 / (np.array([4, 9, 25]) / 38 + 0.001)).tolist()
    expected = [each / sum(authors) for each in authors]
    assert cur.draw_probabilities(p, "smoothed").tolist() == pytest.approx(expected, abs=1e-12)
    rows = cur.probabilities(worked_example(), dim=0).tolist()
    assert rows == pytest.approx([13 / 38, 25 / 38], abs=1e-12)


def test_zero_columns_are_never_drawn():
    W = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 2.0]])
    q = cur.inverted(cur.probabilities(W, dim=1))
    assert q.tolist() == pytest.approx([0.8, 0.0, 0.2], abs=1e-12)
    with pytest.raises(ValueError, match="only 2 of 3"):
        cur.draw(q, 3, replacement=False, generator=torch.Generator())


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("weighting", cur.WEIGHTINGS)
def test_draws_follow_the_probabilities(weighting, replacement):
    """First draws over many seeds match q; tolerance 4 standard errors of a proportion."""
    W = worked_example()
    q = cur.draw_probabilities(cur.probabilities(W, dim=1), weighting)
    n = 3000
    first = torch.zeros(3)
    for seed in range(n):
        index = cur.draw(q, 2, replacement, torch.Generator().manual_seed(seed))
        first[index[0]] += 1
        assert replacement or len(set(index.tolist())) == 2
    error = (first / n - q).abs() / (q * (1 - q) / n).sqrt()
    assert error.max() < 4


def test_smoothed_is_nearly_uniform_at_mistrals_width():
    """With 4,096 columns p is about 2.4e-4 and the constant 0.001 dominates."""
    W = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
    p = cur.probabilities(W, dim=1)
    smoothed, inverted = (cur.draw_probabilities(p, name) for name in ("smoothed", "inverted"))
    assert smoothed.max() / smoothed.min() < 1.3 < inverted.max() / inverted.min()


def test_the_named_selections():
    assert cur.as_selection("eq4") == cur.Selection("inverted", replacement=False)
    assert cur.as_selection("authors") == cur.Selection("smoothed", replacement=True)


def test_product_norm_is_the_dense_norm_and_below_the_bound():
    g = torch.Generator().manual_seed(0)
    C, U, R = (torch.randn(s, generator=g).double() for s in ((7, 3), (3, 3), (3, 5)))
    assert cur.product_norm(C, U, R) == pytest.approx((C @ U @ R).norm().item(), rel=1e-12)
    assert cur.product_norm(C, U, R) <= cur.norm(C) * cur.norm(U) * cur.norm(R)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 64, 150])
def test_norms_of_any_number_of_blocks(rows, dtype):
    """Blocks of 16 rows, the last one not always whole; fp64 rounding over 150 terms."""
    W = torch.randn(rows, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W = W.to(dtype)
    for dim in (0, 1):
        expected = np.square(W.double().numpy()).sum(1 - dim)
        np.testing.assert_allclose(cur.squared_norms(W)[dim].numpy(), expected, rtol=1e-13)
