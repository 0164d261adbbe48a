"""Models of exactly the paper's shapes, random weights: adapters, a training and a scoring step."""

import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from curlora_lite import adapter_layers, add_adapters, count_trainable, scoring, training
from curlora_lite.replication import machine, models, profiles, sequence

pytestmark = pytest.mark.slow

# GPT-2 Large whole; of Mistral-7B one of its 32 equal blocks, with its embedding and its head
CASES = {
    "gpt2-large": ("GPT-2 Large", {}),
    "mistral-7b": ("Mistral-7B-v0.3", {"num_hidden_layers": 1}),
}


@pytest.mark.parametrize("profile", CASES)
@pytest.mark.parametrize("method", ["lora", "curlora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_at_the_real_shapes(monkeypatch, profile, method, checkpointing):
    monkeypatch.setattr(machine, "packs_rows", lambda: False)
    label, cut = CASES[profile]
    kind, sizes, _ = models.REAL_CONFIGS[label]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **cut}))
    table = next(iter(profiles.PROFILES[profile].tables))
    chosen = {"ranks": [24], "methods": [method], "checkpointing": checkpointing}
    spec = profiles.grid(profile, table, **chosen)[0]
    names = add_adapters(model, sequence.adapter_config(spec))
    assert len(names) == {"gpt2-large": 36, "mistral-7b": 3}[profile]
    if method == "curlora":
        assert count_trainable(model) == len(names) * 24**2
    recipe = sequence.recipe(spec, dataclasses.replace(spec.tasks[0], epochs=2))
    encoded = training.Encoded([[5, 6, 7, 8], [9, 10]], torch.tensor([1, 0]))
    head = sequence.new_head(model, 2, 0)
    # the published schedule's first step has rate zero: the second one moves
    trained = training.train_task(model.base_model, head, encoded, recipe, 0)
    assert len(trained["losses"]) == 2
    assert any(layer.update_norm() > 0 for _, layer in adapter_layers(model))
    assert scoring.score_task(model.base_model, head, encoded, 0)["n"] == 2
    assert scoring.perplexity(model, torch.arange(40), 20)["tokens"] == 38
