"""Table 2's stand-in: a small GPT-2 trained from scratch on the embedded corpus.

The same classes as GPT-2 Large (`GPT2LMHeadModel`, fused Conv1D `c_attn`, its own byte-level BPE),
some 450 times smaller. It is trained on the train part of the corpus and no other, once, then kept
in the cache. It is a stand-in: what it can do says nothing about GPT-2 Large.
"""

import collections
import json
import math
import random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from . import corpus

SEED = 0
VOCABULARY = 4096
SIZES = {"n_positions": 256, "n_embd": 192, "n_layer": 2, "n_head": 4}
GELU = "gelu_pytorch_tanh"  # GPT-2's function as one operation: a fifth of a training step less
STEPS, BATCH, WINDOW = 340, 32, 128
LEARNING_RATE, WARMUP, WEIGHT_DECAY = 2e-3, 50, 0.1
END = "<|endoftext|>"


def build(folder, bf16):
    """Train tokenizer and model and save both, with `training.json`, into the new `folder`.

    bf16: whether matrix products run in bf16 (autocast), the weights staying fp32.
    Under two minutes on two cores that are fast in bf16. The same bits for the same versions,
    machine and core count.
    """
    texts = corpus.training_corpus()
    tokenizer = train_tokenizer(texts)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **SIZES)
        config.activation_function = GELU
        model = GPT2LMHeadModel(config)
        stream = token_stream(tokenizer, texts)
        final_loss = _train(model, stream, bf16)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    report = {
        "parameters": model.num_parameters(),
        "training_tokens": len(stream),
        "bf16": bf16,
        "epochs": STEPS * BATCH * WINDOW / len(stream),
        "final_training_loss": final_loss,
        **held_out(model, tokenizer, stream),
    }
    (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n")


def train_tokenizer(texts):
    """A byte-level BPE of `VOCABULARY` tokens with GPT-2's one special token, as id 0."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END, pad_token=END
    )


def token_stream(tokenizer, texts):
    """All texts in one seeded random order, each followed by the end token; int64 (tokens,)."""
    texts = list(texts)
    random.Random(SEED).shuffle(texts)
    encoded = tokenizer(texts)["input_ids"]
    return torch.tensor([i for ids in encoded for i in [*ids, tokenizer.eos_token_id]])


def _train(model, stream, bf16):
    """Train on random windows of the stream; the mean loss of the last 20 steps, nats per token."""
    generator = torch.Generator().manual_seed(SEED)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.95)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _rate)
    losses = []
    model.eval()  # no dropout: it sees each text some three times only
    for _ in tqdm(range(STEPS), desc="training the small GPT-2", unit="step", leave=False):
        starts = torch.randint(len(stream) - WINDOW, (BATCH,), generator=generator)
        ids = torch.stack([stream[i : i + WINDOW] for i in starts])  # (B, T)
        # around the forward pass alone: autocast keeps its bf16 copies of weights until it ends
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return sum(losses[-20:]) / 20


def _rate(step):
    """Linear warm-up, then cosine decay to a tenth: a factor on `LEARNING_RATE`."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / (STEPS - WARMUP)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def held_out(model, tokenizer, stream):
    """Perplexity on the held-out editorials beside a unigram model's on the same tokens.

    The unigram model has the training stream's token frequencies, one added to each count. The
    GPT-2 reads consecutive windows of its full context; both score the tokens after each window's
    first.
    """
    ids = torch.tensor(tokenizer(corpus.text("eval"))["input_ids"])
    width = model.config.n_positions
    windows = ids[: len(ids) // width * width].view(-1, width)  # (B, T)
    counts = collections.Counter(stream.tolist())
    total = len(stream) + len(tokenizer)
    unigram = torch.tensor([math.log((counts[i] + 1) / total) for i in range(len(tokenizer))])
    model.eval()
    nats = [model(input_ids=w, labels=w).loss.item() * w[:, 1:].numel() for w in windows.split(16)]
    scored = windows[:, 1:]
    return {
        "held_out_tokens": scored.numel(),
        "perplexity": math.exp(sum(nats) / scored.numel()),
        "unigram_perplexity": math.exp(-unigram[scored].mean().item()),
    }
