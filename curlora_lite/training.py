"""Train one task: token ids, batches, the class logits' readout, the schedule, the loop."""

import contextlib
import math
import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .checks import finite, known, whole

EPSILON, BETAS = 1e-6, (0.9, 0.999)  # the author's: defaults of transformers' AdamW


class DivergedError(ArithmeticError):
    """A training loss was not finite."""


@dataclass(frozen=True)
class Recipe:
    """How one task is trained.

    learning_rate: nominal, reached where `schedule` says (see `rate`). head_rate: of the head, if
    it is another than the adapter's. batch: rows of a step.
    seed: of the order of rows, where they are shuffled. optimiser: whose AdamW (see `epsilon`).
    dropout: whether the model's own is on. checkpointing: activations are computed again in the
    backward pass, for less memory. last_position: class logits are read at position -1 of rows
    padded on the right (see `features`).
    """

    learning_rate: float
    epochs: int
    batch: int
    seed: int = 0
    schedule: str = "steps"
    peak: float | None = None
    shuffle: bool = True
    optimiser: str = "torch"
    dropout: bool = False
    checkpointing: bool = False
    last_position: bool = False
    head_rate: float | None = None

    def __post_init__(self):
        known("schedule", self.schedule, ("records", "steps"))
        known("optimiser", self.optimiser, ("transformers", "torch"))
        whole("epochs", self.epochs, 1)
        whole("batch", self.batch, 1)
        finite("learning_rate", self.learning_rate)
        if self.head_rate is not None:
            finite("head_rate", self.head_rate)


@dataclass
class Encoded:
    """Rows of token ids with their labels."""

    ids: list
    labels: torch.Tensor


def encode(dataset, tokenizer, max_length, separator=False):
    """Token ids of a task's rows, the two texts of a pair joined, cut to `max_length` tokens.

    separator: whether the end token stands between the two texts of a pair.
    Source: §6.2. Departure: none by default; the author's code puts nothing between them either.
    """
    between = [tokenizer.eos_token_id] if separator else []
    rows = []
    for text, pair in zip(dataset["text"], dataset["pair"], strict=True):
        ids = tokenizer(text)["input_ids"]
        if pair is not None:
            ids = ids + between + tokenizer(pair)["input_ids"]
        rows.append(ids[:max_length])
    labels = [-1 if label is None else label for label in dataset["label"]]  # -1: no class
    return Encoded(rows, torch.tensor(labels))


def check_rows(encoded, name, classes, vocabulary, context):
    """ValueError, naming the row, for what the model would fail on, or learn nothing from.

    A row without a token, or longer than the model's `context`; a token id outside the
    `vocabulary`, which has so many; a label that is none of the `classes`.
    """
    for i, (row, label) in enumerate(zip(encoded.ids, encoded.labels.tolist(), strict=True)):
        if not 1 <= len(row) <= context:
            raise ValueError(f"{name}: row {i} has {len(row)} tokens, expected 1 to {context}")
        if min(row) < 0 or max(row) >= vocabulary:
            raise ValueError(
                f"{name}: row {i} has token ids from {min(row)} to {max(row)}, expected within 0 "
                f"to {vocabulary - 1}: is the tokenizer the model's own?"
            )
        if not 0 <= label < classes:
            raise ValueError(
                f"{name}: row {i} has label {label}, expected within 0 to {classes - 1}"
            )


def pad(rows, pad_id, device):
    """Pad rows of ids on the right: (ids (B, T), lengths (B,)), int64 on `device`."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids.to(device), lengths.to(device)


def features(backbone, ids, lengths, last_position=False):
    """The hidden state that class logits are read from: (B, T) ids -> fp32 (B, D).

    At each row's last real token. Rows are padded on the right, so a causal model needs no mask:
    nothing before the padding sees it. (For rotary positions this equals padding on the left and
    reading position -1, up to rounding.)
    last_position: at position -1 of the padded rows instead, padding masked out but read from
    where a row is shorter, as the author's code does for GPT-2.
    """
    mask = None
    if last_position:
        mask = (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()  # (B, T)
    hidden = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    place = torch.full_like(lengths, -1) if last_position else lengths - 1
    return hidden[torch.arange(len(ids), device=ids.device), place].float()


def rate(step, steps, peak, schedule):
    """The factor on the learning rate at optimiser step `step` (from 0) of `steps`.

    schedule `records`: linear warm-up that ends, after the last step, at `peak` of the nominal
    rate, which is what 500 warm-up steps do to a shorter run; `peak` None is a constant 1.
    schedule `steps`: 10 % of the steps warm up, then half a cosine to zero.
    Source: §6.3 and the author's code (its schedule length counts records).
    """
    if schedule == "records":
        return 1.0 if peak is None else peak * step / steps
    warmup = max(1, round(0.1 * steps))
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def epsilon(step, optimiser):
    """AdamW's epsilon, as torch's AdamW takes it, at optimiser step `step` (from 0).

    `torch`: 1e-6 throughout. `transformers`: its AdamW adds 1e-6 to the root of the second moment
    before that is corrected for its bias, which equals 1e-6 / sqrt(1 - 0.999^(step + 1)) after it.
    Source: the author's code, which takes AdamW from transformers 4.
    """
    if optimiser == "torch":
        return EPSILON
    return EPSILON / math.sqrt(1 - BETAS[1] ** (step + 1))


def train_task(backbone, head, encoded, recipe, pad_id, on_step=None, read=None):
    """Train `head` and the backbone's adapters on one task; returns a dict of what happened.

    backbone: the model without its language-model head (`model.base_model`), frozen but for its
    adapters. head: `Linear(D, classes)`. `losses` (one per step, mean cross-entropy in nats),
    `steps`, `tokens`, `seconds`, `last_rate` (the learning rate of the last step).
    on_step: called with the number of rows after each step. read: lists of ids -> fp32 (B, D), in
    place of `features` of padded rows.
    DivergedError if a loss is not finite.
    Source: §6.2-6.3.
    """
    start = time.perf_counter()
    device = head.weight.device
    adapter = [p for p in backbone.parameters() if p.requires_grad]
    head_rate = recipe.learning_rate if recipe.head_rate is None else recipe.head_rate
    groups = [{"params": adapter, "lr": recipe.learning_rate}]
    groups += [{"params": head.parameters(), "lr": head_rate}]
    optimiser = torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0)
    steps = recipe.epochs * -(-len(encoded.ids) // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: rate(step, steps, recipe.peak, recipe.schedule)
    )
    losses, tokens, last_rate = [], 0, 0.0
    with _training_mode(backbone, recipe.dropout, recipe.checkpointing):
        read = _reader(backbone, encoded.ids, recipe, pad_id, read, frozen=not adapter)
        for rows in batches(len(encoded.ids), recipe):
            logits = head(read(rows))  # (B, classes)
            loss = F.cross_entropy(logits, encoded.labels[rows].to(device))
            if not torch.isfinite(loss):
                raise DivergedError(f"loss {loss.item()} at step {len(losses)} of {steps}")
            loss.backward()
            last_rate = schedule.get_last_lr()[0]
            for group in optimiser.param_groups:
                group["eps"] = epsilon(len(losses), recipe.optimiser)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            losses.append(loss.item())
            tokens += sum(len(encoded.ids[i]) for i in rows)
            if on_step:
                on_step(len(rows))
    seconds = time.perf_counter() - start
    return {
        "losses": losses,
        "steps": steps,
        "tokens": tokens,
        "seconds": seconds,
        "last_rate": last_rate,
    }


@contextlib.contextmanager
def _training_mode(backbone, dropout, checkpointing):
    """Within the block the model trains as asked; afterwards it is in evaluation mode.

    Without dropout the model stays in evaluation mode, which is the same but for dropout. Only
    transformers' checkpointing looks at the mode: there it is training mode, every dropout at zero.
    """
    backbone.train(dropout or checkpointing)
    rates = [(m, n, getattr(m, n)) for m, n in ([] if dropout else _dropouts(backbone))]
    for module, name, _ in rates:
        setattr(module, name, 0.0)
    if checkpointing:
        options = {"use_reentrant": False}
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    try:
        yield
    finally:
        if checkpointing:
            backbone.gradient_checkpointing_disable()
        for module, name, p in rates:
            setattr(module, name, p)
        backbone.eval()


def batches(rows, recipe):
    """Lists of row numbers, epoch after epoch: in order, or in a seeded order that is new each."""
    generator = torch.Generator().manual_seed(recipe.seed)
    for _ in range(recipe.epochs):
        order = range(rows)
        if recipe.shuffle:
            order = torch.randperm(rows, generator=generator).tolist()
        for i in range(0, rows, recipe.batch):
            yield list(order[i : i + recipe.batch])


def _reader(backbone, ids, recipe, pad_id, read, frozen):
    """The function that gives features of a batch: row numbers -> fp32 (B, D).

    Where nothing that they depend on is trained, they are computed once, before the first step.
    """
    read = read or (lambda rows: padded_features(backbone, rows, pad_id, recipe.last_position))
    if frozen:
        read = torch.no_grad()(read)
        if not (_has_dropout(backbone) or recipe.last_position):  # the same whatever the batch
            return by_length(read, ids).__getitem__
    return lambda rows: read([ids[i] for i in rows])


def by_length(read, ids, size=64):
    """What `read` gives for all these rows, (rows, D), read by length in batches of `size`."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    parts = [read([ids[i] for i in order[at : at + size]]) for at in range(0, len(ids), size)]
    found = torch.cat(parts)
    out = torch.empty_like(found)
    out[order] = found
    return out


def padded_features(backbone, rows, pad_id, last_position=False):
    """`features` of lists of ids, padded: fp32 (B, D)."""
    device = next(backbone.parameters()).device
    return features(backbone, *pad(rows, pad_id, device), last_position)


def _has_dropout(backbone):
    """Whether a dropout is on: in training mode only, with a rate above zero."""
    return backbone.training and any(getattr(m, name) > 0 for m, name in _dropouts(backbone))


def _dropouts(backbone):
    """Yield (module, name of its rate): of the dropouts, and of what calls them as a function."""
    for module in backbone.modules():
        own = isinstance(module, torch.nn.Dropout)
        for name in ["p"] if own else [name for name in vars(module) if "dropout" in name]:
            if isinstance(getattr(module, name), float):
                yield module, name
