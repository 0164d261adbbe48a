"""Adapters together with what people use beside them: dtypes, checkpointing, compile, Trainer, …"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import IDS, METHODS, moved, tiny_llama
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from curlora_lite import add_adapters

CONFIGS = {method: config(rank=4, seed=3) for method, config in METHODS.items()}


def loss_of(model, ids=IDS):
    return model(input_ids=ids, labels=ids).loss


def started(model, config, scale=0.1):
    """Adapters with seeded values, so that gradients reach every part."""
    add_adapters(model, config)
    return moved(model, scale)


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("how", ["checkpointing", "compiled"])
@pytest.mark.parametrize("method", CONFIGS)
def test_the_same_gradients_checkpointed_or_compiled(llama, method, how):
    """Compiled through Dynamo and AOTAutograd, in one graph."""
    model = started(llama, CONFIGS[method]).train()
    loss_of(model).backward()
    expected = gradients(model)
    model.zero_grad()
    if how == "checkpointing":
        model.gradient_checkpointing_enable()
    else:
        model = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss_of(model).backward()
    torch.testing.assert_close(gradients(llama), expected, rtol=1e-4, atol=1e-6)


def half(rank, file):
    """One of two processes: the mean over halves of a batch is the whole batch's gradient."""
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    ids = torch.arange(24).view(4, 6)
    own = ids[2 * rank :][:2]
    both, whole, alone = (started(tiny_llama(), CONFIGS["curlora"]) for _ in range(3))
    for model, rows in ((DistributedDataParallel(both), own), (whole, ids), (alone, own)):
        loss_of(model, rows).backward()
    found, expected, other = (gradients(model) for model in (both, whole, alone))
    for name, gradient in expected.items():
        bound = 1e-4 * gradient.norm()
        assert (found[name] - gradient).norm() < bound < (other[name] - gradient).norm()
    with pytest.warns(UserWarning, match="averages gradients of the parameters that it found"):
        add_adapters(DistributedDataParallel(tiny_llama()), CONFIGS["lora"])
    distributed.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path):
    """In a process of its own: it forks, and forks after products in several threads may hang."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, test_works_with
torch.set_num_threads(1)
file = {str(tmp_path / "store")!r}
torch.multiprocessing.start_processes(test_works_with.half, (file,), 2, start_method="fork")
"""
    command, root = [sys.executable, "-c", script], Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
