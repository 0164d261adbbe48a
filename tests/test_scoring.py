"""Accuracy on hand-worked answers; perplexity from its definition."""

import math

import peft
import pytest
import torch
import transformers

from curlora_lite import scoring, training
from curlora_lite.replication.accuracy import Accuracy

# three classes, counted apart: 4, 2 and 1 rows of them, 1, 3 and 3 answers
REFERENCES, PREDICTIONS = [0, 0, 0, 0, 1, 2, 1], [0, 1, 1, 2, 1, 2, 2]


def test_accuracy_by_hand():
    expected = {"accuracy": 3 / 7, "n": 7, "majority": 4 / 7, "predicted": [1, 3, 3]}
    assert scoring.accuracy(PREDICTIONS, REFERENCES, 3) == expected
    given = {"predictions": PREDICTIONS, "references": REFERENCES, "classes": 3}
    assert Accuracy(keep_in_memory=True).compute(**given) == expected
    with pytest.raises(ValueError, match="references: got none"):
        scoring.accuracy([], [], 3)


def test_answers_come_back_in_the_order_of_the_rows(llama):
    """They are read by length; each is the one that the row gets alone."""
    rows = [[n, 3 * n % 64] * n for n in (9, 2, 30, 4, 1, 17, 12)]
    torch.manual_seed(3)
    head = torch.nn.Linear(32, 5, bias=False)
    alone = [scoring.predict(llama.base_model, head, [row], 0)[0] for row in rows]
    assert len(set(alone)) > 1
    assert scoring.predict(llama.base_model, head, rows, 0) == alone
    encoded = training.Encoded(rows, torch.tensor(alone))
    assert scoring.score_task(llama.base_model, head, encoded, 0)["accuracy"] == 1


def test_the_authors_batches_are_of_128_rows_as_they_come(gpt2):
    """Padded to the longest of each, and read at position -1: a short row's answer is padding's."""
    generator = torch.Generator().manual_seed(1)
    lengths = [2 + i // 10 + i * 7 % 11 for i in range(140)]
    rows = [torch.randint(1, 64, (n,), generator=generator).tolist() for n in lengths]
    torch.manual_seed(3)
    head, expected = torch.nn.Linear(32, 5, bias=False), []
    for batch in (rows[:128], rows[128:]):
        fill = [[0] * (max(map(len, batch)) - len(row)) for row in batch]
        ids = torch.tensor([row + zeros for row, zeros in zip(batch, fill, strict=True)])
        mask = torch.tensor([[1] * len(r) + zeros for r, zeros in zip(batch, fill, strict=True)])
        expected += head(gpt2.base_model(ids, attention_mask=mask)[0][:, -1]).argmax(1).tolist()
    found = scoring.predict(gpt2.base_model, head, rows, 0, last_position=True)
    assert found == expected != scoring.predict(gpt2.base_model, head, rows, 0)


def nats(model, ids, window):
    """-log p of each token but the first of each window, in fp64 of the model's own logits."""
    found = []
    for start in range(0, len(ids), window):
        part = ids[start : start + window]
        with torch.no_grad():
            logs = model(part[None]).logits[0].double().log_softmax(-1)
        found += [-logs[i, part[i + 1]].item() for i in range(len(part) - 1)]
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [5, 8, 20])
def test_perplexity_from_the_definition(llama, window, dtype):
    """Logits in bf16 have their likelihoods taken in fp32: one rounding, not three."""
    llama.to(dtype)
    for parameter in llama.parameters():
        parameter.data.mul_(4)  # so that logits differ enough for bf16 to round them
    ids = torch.arange(20) % 64
    expected = nats(llama, ids, window)
    found = scoring.perplexity(llama, ids, window)
    assert (found["tokens"], found["window"]) == (len(expected), window)
    assert found["perplexity"] == pytest.approx(math.exp(sum(expected) / len(expected)), rel=1e-5)


BASE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "pad_token_id": 0}  # fmt: skip
OWN = {  # what these do to their logits, and how they call their backbone
    "scaled": transformers.CohereConfig(**BASE, logit_scale=0.25),
    "divided": transformers.GraniteConfig(**BASE, logits_scaling=8.0),
    "capped": transformers.Gemma2Config(**BASE, head_dim=8, final_logit_softcapping=0.5),
    "past the backbone": transformers.OPTConfig(**BASE, ffn_dim=48, word_embed_proj_dim=32),
    "adapted by PEFT": peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False),
    "prompted by PEFT": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.mark.parametrize("own", OWN)
def test_perplexity_is_of_the_models_own_logits(llama, own, monkeypatch):
    """In parts, the last one shorter; without dropout, in each module's mode again afterwards."""
    assert OWN["past the backbone"].dropout > 0
    monkeypatch.setattr(scoring, "LOGIT_CHUNK", 7)
    by_peft = isinstance(OWN[own], peft.PeftConfig)
    build = transformers.AutoModelForCausalLM.from_config
    torch.manual_seed(0)
    model = peft.get_peft_model(llama, OWN[own]) if by_peft else build(OWN[own])
    for parameter in model.parameters():
        parameter.data.mul_(4)
    ids = torch.arange(20) * 7 % 64
    with torch.no_grad():
        logs = model.eval()(input_ids=ids[None]).logits[0, -20:].double().log_softmax(-1)
    model.train().get_input_embeddings().eval()
    modes = [module.training for module in model.modules()]
    found = scoring.perplexity(model, ids, 20)["perplexity"]
    expected = math.exp(-logs[torch.arange(19), ids[1:]].mean())
    assert found == pytest.approx(expected, rel=1e-5)
    assert [module.training for module in model.modules()] == modes


def test_strided_perplexity_is_each_token_once_in_its_longest_context(llama):
    """Against the log-likelihoods read off one forward pass a window, token by token."""
    ids = torch.randint(0, 64, (37,), generator=torch.Generator().manual_seed(0))
    scored = {}
    for start in range(0, 36, 5):
        for i, nat in enumerate(nats(llama, ids[start : start + 10], 10), 1):
            scored.setdefault(start + i, nat)
    found = scoring.perplexity(llama, ids, 10, stride=5)
    assert found["tokens"] == 36 == len(scored)
    assert found["perplexity"] == pytest.approx(math.exp(sum(scored.values()) / 36), rel=1e-5)


def test_what_has_no_perplexity(llama):
    for tokens, window, stride in ((1, 8, 4), (9, 1, None), (9, 4, 5), (9, 4, -1)):
        with pytest.raises(ValueError, match="expected 2 or more of both, and no stride above"):
            scoring.perplexity(llama, torch.arange(tokens), window, stride)
    llama.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(training.DivergedError, match="the mean log-likelihood is nan"):
        scoring.perplexity(llama, torch.arange(9), 8)
