"""Fine-tuning a causal language model to answer prompts, with transformers' `Trainer`.

Not in the paper; its author fine-tunes GPT-2 Large on SQuAD in his repository.
"""

import contextlib
from collections import Counter
from dataclasses import dataclass

from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

from . import metrics, models, profiles, records
from .adapter_files import CONFIGS
from .answers import IGNORED, SENTIMENTS, TASKS, answer_ids, prompt_ids
from .checks import known, whole
from .tables import MODEL_LABELS, WEIGHTS, Table


@dataclass(frozen=True)
class Plan:
    """What is trained in a profile, and how much of it.

    Each of the `steps` steps reads `batch` new rows. loss_rows: of the `eval_rows`, the first, on
    which the held-out loss is measured, since it costs twice what answering does. max_length,
    new_tokens: of a row and of a generated answer, in tokens. text_tokens: of running text, for
    perplexity.
    """

    model: profiles.ModelSpec
    source: str
    task: str
    method: str
    rank: int
    steps: int
    batch: int
    learning_rate: float
    eval_rows: int
    loss_rows: int
    max_length: int
    new_tokens: int
    text_tokens: int
    precision: str

    def __post_init__(self):
        known("method", self.method, CONFIGS)
        known("precision", self.precision, profiles.PRECISIONS)
        for field in ("rank", "steps", "batch", "eval_rows", "loss_rows", "new_tokens"):
            whole(field, getattr(self, field), 1)
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: got {self.learning_rate!r}, expected above zero")

    def config(self, seed):
        """The adapter's configuration."""
        return CONFIGS[self.method](
            rank=self.rank, target_modules=self.model.target_modules, seed=seed
        )

    @property
    def choices(self):
        """The answers there are to choose from; none where they are free."""
        return SENTIMENTS if self.task == "sst2" else ()


# Embedded sizes and rate were chosen on the tune part, for a minute of one core; the paper's
# profiles' follow no publication (the author's SQuAD run is not in the paper) and were not tuned.
_EMBEDDED = {
    "task": "sst2",
    "steps": 16,
    "batch": 4,
    "learning_rate": 6e-3,
    "eval_rows": 200,
    "loss_rows": 48,
    "max_length": 96,
    "new_tokens": 2,
    "text_tokens": 512,
}
SIZES = {
    "embedded": _EMBEDDED,
    "embedded-quick": {**_EMBEDDED, "steps": 8, "eval_rows": 32, "loss_rows": 16},
    "paper": {
        "task": "squad",
        "steps": 1000,
        "batch": 8,
        "learning_rate": 2e-3,
        "eval_rows": 1000,
        "loss_rows": 1000,
        "max_length": 512,
        "new_tokens": 32,
        "text_tokens": 1024,
    },
}


def plan(profile, **chosen):
    """The Plan of a profile; chosen: fields to change, None for the profile's own.

    ValueError, naming what is known, for an unknown profile or field or a value out of range.
    """
    own = profiles.profile_named(profile)
    table = next(iter(own.tables.values()))
    fields = {"model": table.model, "source": own.source, "method": "curlora", "rank": 16}
    fields |= SIZES["paper"] if own.source == "paper" else SIZES[profile]
    fields["precision"] = table.precision or models.fast_precision()
    for name, value in chosen.items():
        known("chosen", name, Plan.__dataclass_fields__)
        fields[name] = fields[name] if value is None else value
    if fields["precision"] == "tf32":  # says how products are computed; here in fp32
        fields["precision"] = "fp32"
    fields["loss_rows"] = min(fields["loss_rows"], fields["eval_rows"])
    return Plan(**fields)


def trainer(model, tokenizer, train, held_out, folder, **settings):
    """A `Trainer` of `model`'s adapter on encoded rows; it writes no file and asks no network.

    settings: those of `TrainingArguments` that differ from one fine-tuning to another. With an
    adapter in place a checkpoint would hold the wrapped names, so none is saved: `save_adapter`
    does that. Data order and dropout follow `seed`.
    """
    arguments = TrainingArguments(
        str(folder),
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=True,
        prediction_loss_only=True,
        weight_decay=0.0,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,  # of the steps
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type != "cpu",
        **settings,
    )
    made = Trainer(
        model,
        arguments,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        train_dataset=train,
        eval_dataset=held_out,
    )
    made.remove_callback(PrinterCallback)
    return made


def losses(trainer):
    """The training loss of each step, mean cross-entropy of the answers' tokens, in nats."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def answer(model, tokenizer, rows, plan, batch=32):
    """What `model` answers to the rows' prompts, greedily: (texts, chosen).

    texts: what it generates, at most `plan.new_tokens` tokens. chosen: of `plan.choices` the one
    whose first token is likeliest, which asks for the task without the form; None where answers are
    free. Rows are read by length in batches padded on the left.
    """
    room = plan.max_length - plan.new_tokens
    prompts = [prompt_ids(row.prompt, tokenizer, room) for row in rows]
    firsts = [answer_ids(choice, tokenizer)[0] for choice in plan.choices]
    texts, chosen = [""] * len(rows), [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
    options = {
        "max_new_tokens": plan.new_tokens,
        "do_sample": False,
        "pad_token_id": tokenizer.pad_token_id,
        "return_dict_in_generate": True,
        "output_logits": bool(firsts),
    }
    for start in range(0, len(order), batch):
        places = order[start : start + batch]
        given = tokenizer.pad(
            {"input_ids": [prompts[i] for i in places]}, padding_side="left", return_tensors="pt"
        ).to(model.device)
        with _contiguous_states(model):
            out = model.eval().generate(**given, **options)
        new = out.sequences[:, given["input_ids"].shape[1] :]
        for i, text in zip(places, tokenizer.batch_decode(new, True), strict=True):
            texts[i] = text.strip()
        if firsts:
            for i, best in zip(places, out.logits[0][:, firsts].argmax(-1).tolist(), strict=True):
                chosen[i] = plan.choices[best]
    return texts, chosen if firsts else None


@contextlib.contextmanager
def _contiguous_states(model):
    """Within the block the head reads contiguous states: generation's are a slice, (B, 1, D).

    torch's bf16 product on a CPU takes hundreds of times as long for a slice, with equal results.
    """
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, states: (states[0].contiguous(),))
    try:
        yield
    finally:
        hook.remove()


def results_table(plan, before, after, seed):
    """Before and after beside each other: exact answers with Wilson's interval, F1, losses.

    before, after: measure -> what `answers.score` or `scoring.perplexity` gives, or a mean over
    the `loss_rows`; the measures are the rows' names.
    """
    body = []
    for name, value in before.items():
        both = (value, after[name])
        if not isinstance(value, dict):
            body.append((name, f"{plan.loss_rows:,}", "", *(f"{v:.2f}" for v in both)))
        elif "perplexity" in value:
            shown = (f"{v['perplexity']:,.2f}" for v in both)
            body.append((name, f"{value['tokens']:,} tokens", "", *shown))
        else:
            n, majority = f"{value['n']:,}", f"{value['majority']:.2f}"
            body.append((name, n, majority, *map(_exact, both)))
            if not plan.choices:
                body.append((f"{name}, F1", n, "", *(f"{v['f1']:.2f}" for v in both)))
    label = MODEL_LABELS[plan.model.name]
    method = profiles.method_label(plan.method, plan.rank)
    caption = f"{label} fine-tuned to answer: {TASKS[plan.task]}, {method}"
    columns = ("", "n", "Majority", "Before", "After")
    return Table(caption, columns, tuple(body), (*_paired(before, after), *_notes(plan, seed)))


def _notes(plan, seed):
    held = WEIGHTS.get(plan.model.name, "weights held")
    source = records.provenance(models.default_device())
    return (
        "Generated answer: at most "
        f"{plan.new_tokens} tokens, exact but for case, punctuation and articles. In brackets: "
        "95 % interval (Wilson) for the choice of rows alone.",
        "Held-out loss: mean cross-entropy of the answers' tokens, nats. Perplexity: of text that "
        "the task is not about.",
        f"{held} in {plan.precision}; {plan.steps:,} steps of {plan.batch} rows, each read once; "
        f"AdamW, learning rate {plan.learning_rate:g} at its highest, then a cosine to zero; one "
        f"run, seed {seed}.",
        f"Computed by the code at commit {str(source['commit'])[:10]} on {source['device']}.",
    )


def _exact(score):
    low, high = metrics.wilson_interval(score["exact"], score["n"])
    return f"{score['exact']:.2f} ({low:.2f} to {high:.2f})"


def _paired(before, after):
    """How many rows are right on one side only: the two columns are of the same rows."""
    for name, value in before.items():
        if isinstance(value, dict) and "right" in value:
            pairs = Counter(zip(value["right"], after[name]["right"], strict=True))
            gained, lost = pairs[False, True], pairs[True, False]
            yield f"{name}: {gained:,} rows became right, {lost:,} wrong."


def side_by_side(rows, before, after, count=6):
    """A table of the first `count` rows: prompt, expected answer, what came before and after."""
    shown = [
        (row.prompt, row.answers[0], first, second)
        for row, first, second in zip(rows[:count], before, after, strict=False)
    ]
    return Table(
        f"The first {len(shown)} held-out rows",
        ("Prompt", "Expected", "Before", "After"),
        tuple(tuple(_one_line(cell) for cell in row) for row in shown),
        left=(0, 1, 2, 3),
    )


def _one_line(text, longest=200):
    text = " ".join(text.replace("|", "/").split())
    return text if len(text) <= longest else f"… {text[-longest:]}"
