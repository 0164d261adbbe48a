"""One wrapped projection against the dense formulas of Eq. 1 and Eq. 8, in fp64."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers.pytorch_utils import Conv1D

from curlora_lite.layers import CURLoRALinear, LoRALinear
from curlora_lite.replication.baselines import LoRAXSLinear

N_IN, N_OUT, RANK, ALPHA = 6, 10, 4, 1.7


def projection(kind, bias, dtype=torch.float64, n_out=N_OUT):
    torch.manual_seed(1)
    if kind == "conv1d":
        base = Conv1D(n_out, N_IN)  # transformers gives the output width first
        nn.init.normal_(base.bias)
        if not bias:
            base.bias = nn.Parameter(torch.zeros(n_out))
    else:
        base = nn.Linear(N_IN, n_out, bias=bias)
    return base.to(dtype)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def dense_reference(layer, x):
    """y = x (W + alpha C U R) + b in the paper's orientation, W (in, out), by dense products.

    Written from the index vectors alone: for a Linear the paper's W is the stored one transposed,
    so the stored rows are the paper's columns.
    """
    W = layer.base.weight.detach()
    b = layer.base.bias
    b = 0 if b is None else b.detach()
    U = layer.U.detach().clone().requires_grad_(True)
    x = x.detach().clone().requires_grad_(True)
    C, R = W[:, layer.cols], W[layer.rows, :]
    update = C @ U @ R
    if isinstance(layer.base, nn.Linear):
        W, update = W.T, update.T
    return x @ (W + layer.alpha * update) + b, x, U


REPEATED = torch.tensor([1, 1, 2, 1]), torch.tensor([0, 3, 3, 3])


@pytest.mark.parametrize("indices", [None, REPEATED], ids=["drawn", "repeated"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("n_out", [N_OUT, N_IN])
def test_gather_forward_and_gradients_equal_the_dense_formula(kind, bias, indices, n_out):
    """The author's code tells orientations apart by shape; a square W must not confuse ours."""
    base = projection(kind, bias, n_out=n_out)
    layer = CURLoRALinear(base, RANK, ALPHA, generator=gen(3), indices=indices)
    assert layer.U.dtype == torch.float64 and not layer.U.any()
    nn.init.normal_(layer.U, generator=gen(5))
    x = torch.randn(2, 3, N_IN, generator=gen(6), dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, n_out, generator=gen(7), dtype=torch.float64)
    y = layer(x)
    expected, x_ref, U_ref = dense_reference(layer, x)
    (y * upstream).sum().backward()
    (expected * upstream).sum().backward()
    # fp64 rounding over sums of some ten terms
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, x_ref.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.U.grad, U_ref.grad, rtol=1e-12, atol=1e-12)


def trained_layer():
    layer = CURLoRALinear(projection("linear", True), RANK, ALPHA, generator=gen())
    nn.init.normal_(layer.U, generator=gen(5))
    return layer


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_lora_is_eq_1(kind):
    layer = LoRALinear(projection(kind, True), RANK, ALPHA, generator=gen())
    nn.init.normal_(layer.B, generator=gen(5))
    x = torch.randn(4, N_IN, generator=gen(6), dtype=torch.float64)
    W = layer.base.weight.T if kind == "linear" else layer.base.weight
    update = ALPHA * (layer.A @ layer.B)
    torch.testing.assert_close(layer(x), x @ (W + update) + layer.base.bias, rtol=1e-12, atol=1e-12)
    assert layer.update_norm() == pytest.approx(update.norm().item(), rel=1e-10)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3, 4)])
def test_any_leading_axes(shape):
    x = torch.randn(*shape, N_IN, generator=gen(6), dtype=torch.float64)
    layer = trained_layer()
    y, expected = layer(x), dense_reference(layer, x)[0]
    assert y.shape == (*shape, N_OUT)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_gradients_under_autocast():
    """As mixed precision with fp32 weights does it: forward in bf16, backward outside of it."""
    layer = trained_layer().float()
    x = torch.randn(64, N_IN, generator=gen(6))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().pow(2).sum().backward()
    expected, _, U = dense_reference(layer, x)
    expected.pow(2).sum().backward()
    assert y.dtype == torch.bfloat16 and layer.U.grad.dtype == torch.float32
    # 8 bits, rounded a few times, in a sum over 64 tokens
    assert (layer.U.grad - U.grad).norm() < 0.02 * U.grad.norm()


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("make", [CURLoRALinear, LoRALinear])
def test_bf16_weights_agree_with_fp32(make, kind):
    """The fast path: frozen weights and outputs in bf16, the adapter in fp32; trained, with a bias.

    bf16 keeps 8 bits: 0.4 % a rounding, and an update is rounded two or three times. Against the
    bias, which is taken off again before U, the error grows with its size; here it is as large as
    the outputs. 3 % of the norm were enough for both in a hundred draws, gradients included.
    """
    torch.manual_seed(4)
    base = nn.Linear(64, 96) if kind == "linear" else Conv1D(96, 64)
    nn.init.normal_(base.weight, std=0.1)
    nn.init.normal_(base.bias)
    base.weight.data = base.weight.data.bfloat16().float()  # the same numbers in both
    base.bias.data = base.bias.data.bfloat16().float()
    x, results = torch.randn(32, 64).bfloat16(), {}
    upstream = torch.randn(32, 96).bfloat16()
    for dtype in (torch.float32, torch.bfloat16):
        layer = make(copy.deepcopy(base).to(dtype), 8, ALPHA, generator=gen())
        for i, parameter in enumerate(p for p in layer.parameters() if p.requires_grad):
            if not parameter.any():
                nn.init.normal_(parameter, generator=gen(i + 5))
        inputs = x.to(dtype).requires_grad_(True)
        update = layer(inputs) - layer.base(inputs)
        (update * upstream.to(dtype)).sum().backward()
        trained = [p.grad for p in layer.parameters() if p.grad is not None]
        results[dtype] = [update.detach(), inputs.grad, *trained]
    for fast, exact in zip(results[torch.bfloat16], results[torch.float32], strict=True):
        assert (fast.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_lora_xs_trains_between_the_largest_singular_directions(kind):
    """L R is the best approximation of W of its rank; the layer adds alpha L M R."""
    layer = LoRAXSLinear(projection(kind, True), RANK, ALPHA)
    assert not layer.M.any()
    nn.init.normal_(layer.M, generator=gen(5))
    W = layer.base.weight.detach()
    P, S, Q = np.linalg.svd(W.numpy(), full_matrices=False)
    best = torch.from_numpy((P[:, :RANK] * S[:RANK]) @ Q[:RANK])
    torch.testing.assert_close(layer.L @ layer.R, best, rtol=1e-10, atol=1e-10)
    whole = W + ALPHA * layer.L @ layer.M @ layer.R
    x = torch.randn(4, N_IN, generator=gen(6), dtype=torch.float64)
    expected = x @ (whole.T if kind == "linear" else whole) + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(W + ALPHA * layer.update(), whole)


@pytest.mark.parametrize(("init", "bound"), [("authors", 8**-0.5), ("usual", 576**-0.5)])
def test_lora_starts_uniform_within_the_bounds_of_both_inits(init, bound):
    """Uniform from -bound to bound, by Kolmogorov and Smirnov's test; torch's Kaiming agrees."""
    A = LoRALinear(nn.Linear(576, 192, bias=False), 8, init=init, generator=gen(3)).A
    oracle = torch.empty((576, 8) if init == "authors" else (8, 576))
    nn.init.kaiming_uniform_(oracle, a=math.sqrt(5))
    for found in (A, oracle):
        assert stats.kstest(found.detach().flatten(), "uniform", (-bound, 2 * bound)).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_merging_rounds_once(kind):
    """bf16: the sum is rounded, not the update before it; a few sums fall on a rounding's edge."""
    layer = CURLoRALinear(projection(kind, True, torch.bfloat16), RANK, ALPHA, generator=gen(3))
    nn.init.normal_(layer.U, generator=gen(5))
    C, U, R = (factor.detach().double() for factor in layer.factors())
    merged, W, update = layer.merged_weight(), layer.base.weight, ALPHA * (C @ U @ R)
    assert merged.dtype == torch.bfloat16
    once, twice = (W.double() + update).bfloat16(), W + update.bfloat16()
    assert (twice != once).float().mean() > 0.05
    assert (merged != once).float().mean() < 0.02


def test_state_dict_holds_all_that_the_adapter_is():
    a = CURLoRALinear(projection("linear", False), RANK, generator=gen(0))
    b = CURLoRALinear(projection("linear", False), RANK, generator=gen(9))
    nn.init.normal_(a.U, generator=gen(5))
    assert set(a.state_dict()) == {"rows", "cols", "U", "base.weight"}
    b.load_state_dict(a.state_dict())
    x = torch.randn(3, N_IN, generator=gen(6), dtype=torch.float64)
    assert torch.equal(a(x), b(x))
