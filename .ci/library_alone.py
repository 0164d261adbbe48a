"""The library where only what `pip install .` brings is there: `python .ci/library_alone.py`.

`make test-library` runs it in an environment of its own, with the oldest transformers claimed.
"""

import importlib
import math
import tempfile
from pathlib import Path

import torch
import transformers

import curlora_lite as cl
from curlora_lite import scoring, training

IDS = torch.tensor([[1, 5, 9, 3, 7, 2], [2, 2, 8, 60, 4, 11]])


def llama():
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return transformers.LlamaForCausalLM(config), ("q_proj", "v_proj")


def gpt2():
    config = transformers.GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    return transformers.GPT2LMHeadModel(config), ("c_attn",)


def lives(make):
    """Add, train, score, save, load, merge, export: on one model."""
    torch.manual_seed(3)
    model, targets = make()
    state = {name: value.clone() for name, value in model.eval().state_dict().items()}
    before = model(IDS).logits
    cl.add_adapters(model, cl.CURLoRAConfig(rank=4, target_modules=targets, seed=3))
    assert torch.equal(model(IDS).logits, before)

    head = torch.nn.Linear(32, 2)
    rows = training.Encoded([[1, 2, 3], [4, 5], [6, 7, 8, 9], [10, 11]], torch.tensor([0, 1, 0, 1]))
    recipe = training.Recipe(learning_rate=0.5, epochs=4, batch=2, seed=3)
    trained = training.train_task(model.base_model, head, rows, recipe, pad_id=0)
    assert trained["steps"] == 8 and trained["losses"][-1] < trained["losses"][0]
    assert scoring.score_task(model.base_model, head, rows, 0)["n"] == 4

    after = model(IDS).logits
    assert (after - before).abs().max() > 1e-3
    nats = torch.nn.functional.cross_entropy(after[0, :-1], IDS[0, 1:]).item()
    found = scoring.perplexity(model, IDS[0], 6)["perplexity"]
    assert math.isclose(found, math.exp(nats), rel_tol=1e-5)

    with tempfile.TemporaryDirectory() as folder:
        cl.save_adapter(model, Path(folder) / "own")
        cl.export_to_peft(model, Path(folder) / "peft")
        fresh, _ = make()
        fresh.eval().load_state_dict(state)
        cl.load_adapter(fresh, Path(folder) / "own")
    assert torch.equal(fresh(IDS).logits, after)
    cl.merge_adapters(model)
    assert torch.allclose(model(IDS).logits, after, atol=1e-5)
    cl.unmerge_adapters(model)
    cl.remove_adapters(model)
    assert torch.equal(model(IDS).logits, before)


if __name__ == "__main__":
    package = Path(cl.__file__).parent
    for module in sorted(package.glob("[a-z]*.py")):
        importlib.import_module(f"curlora_lite.{module.stem}")
    for make in (llama, gpt2):
        lives(make)
    print(f"1 passed, 0 failed: torch {torch.__version__}, transformers {transformers.__version__}")
