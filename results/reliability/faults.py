"""Faults written by hand, of the kinds that a person makes: `make mutants` plants them one by one.

Each stands for a mistake that would make a number of the evidence wrong. Text that stands once in
its file is replaced by another; then the tests below, which touch that file, have to fail. Those of
the library and the replication are also the tests of generated faults in the same file.
"""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAULTS = []
# Generated faults that change nothing that anybody could see: their number, and why.
EQUIVALENT = {
    "ed2ceabc": "the columns are read by name",
    "64c8760d": "numbers as small as these are one object each in CPython",
    "b64ea0bb": "numbers as small as these are one object each in CPython",
    "3849670c": "a label one point further to the right",
    "9a1cd35a": "the same sums, over blocks of 17 rows",
    "36308f4c": "nothing changes a plan",
    "2509e5ba": "the same logits, in more memory",
    "2e948ac6": "the columns are three",
    "4c65e291": "a clean text for each row",
    "f8fa7093": "a count for each mean",
    "bcb89d5d": "U is square",
    "a6d95926": "all rows have one source",
    "68175b71": "the thread ends with its queue",
}


@dataclass(frozen=True)
class Fault:
    """What it is, the file, its text (once in the file) and what stands there instead."""

    what: str
    file: str
    old: str
    new: str

    @property
    def tests(self):
        return TESTS[self.file]


# file -> the tests that touch it, the quick ones first
RUN = "test_independent_run test_stored_run"
TABLES = "test_runs test_tables test_table_notebooks"
TESTS = {
    "curlora_lite/cur.py": f"test_cur test_bad_input test_layers {RUN}",
    "curlora_lite/layers.py": f"test_layers test_adapters test_casts_and_modes test_adapter_files test_looked_into {RUN}",
    "curlora_lite/adapters.py": "test_adapters test_heads test_kept_elsewhere test_adapter_files test_looked_into test_run",
    "curlora_lite/adapter_files.py": "test_adapter_files test_casts_and_modes test_heads",
    "curlora_lite/attached.py": "test_adapters test_heads test_casts_and_modes test_adapter_files test_works_with test_trainer",
    "curlora_lite/heads.py": "test_heads test_casts_and_modes test_trainer",
    "curlora_lite/modules.py": "test_heads test_looked_into test_adapters test_works_with",
    "curlora_lite/weights.py": "test_kept_elsewhere test_casts_and_modes test_looked_into test_adapters",
    "curlora_lite/base_check.py": "test_adapter_files test_casts_and_modes",
    "curlora_lite/peft_files.py": "test_adapter_files test_heads",
    "curlora_lite/trainer.py": "test_trainer",
    "first_contact.py": "test_first_contact",
    "llama.py": f"test_llama {RUN}",
    "curlora_lite/configs.py": f"test_adapters test_bad_input {RUN}",
    "curlora_lite/checks.py": "test_bad_input",
    "curlora_lite/training.py": f"test_training test_bad_input test_protocol {RUN}",
    "curlora_lite/scoring.py": f"test_scoring {RUN}",
    "curlora_lite/metrics.py": "test_metrics test_runs test_pages",
    "accuracy.py": f"test_scoring {RUN}",
    "baselines.py": "test_layers test_checkpoints test_stored_run",
    "cells.py": "test_cells",
    "checkpoints.py": "test_checkpoints",
    "corpus.py": "test_data",
    "data.py": f"test_data test_hub test_bad_input {RUN}",
    "figures.py": "test_figures",
    "fused.py": "test_fused test_stored_run",
    "grids.py": "test_reuse test_run test_checkpoints test_cells test_first_contact test_survival test_workers",
    "hub.py": "test_hub test_bad_input",
    "inputs.py": f"test_protocol test_reuse {RUN}",
    "machine.py": "test_doctor test_memory test_survival",
    "models.py": "test_memory test_tables test_adapter_files",
    "paper.py": "test_run test_protocol test_tables",
    "profiles.py": "test_protocol test_run test_cells test_bad_input test_memory test_cluster test_tables test_table_notebooks",
    "protocol.py": f"test_protocol test_bad_input {RUN}",
    "records.py": "test_reuse test_bad_input test_checkpoints test_cells test_tables test_survival",
    "rules.py": "test_metrics test_pages",
    "runs.py": "test_runs test_tables test_pages",
    "sequence.py": f"{RUN} test_run test_protocol test_checkpoints test_verify",
    "specs.py": "test_run test_bad_input test_protocol test_tables test_cluster test_doctor",
    "tables.py": TABLES,
    "verify.py": "test_verify",
}
TESTS = {name if "/" in name else f"curlora_lite/replication/{name}": tests.split() for name, tests in TESTS.items()}
TESTS |= {
    "curlora_lite/replication/sources.toml": ["test_hub"],
    "notebooks/table1_mistral.ipynb": ["test_table_notebooks"],
    "notebooks/table2_gpt2.ipynb": ["test_table_notebooks"],
    "notebooks/audit.ipynb": ["test_audit_notebook"],
    "notebooks/benchmark.ipynb": ["test_bench"],
}


def of(file, *faults):
    """Faults of one file: (what it is, its text, the other)."""
    FAULTS.extend(Fault(what, file, old, new) for what, old, new in faults)


def of_replication(module, *faults):
    of(f"curlora_lite/replication/{module}.py", *faults)


of(
    "curlora_lite/cur.py",
    ("any weighting", 'known("weighting", self.weighting, WEIGHTINGS)', "pass"),
    ("another constant beside p", "SMOOTHING = 0.001", "SMOOTHING = 0.01"),
    ("Eq. 4 with replacement", 'Selection("inverted", False)', 'Selection("inverted", True)'),
    ("the author's draw without replacement", '"smoothed", True)', '"smoothed", False)'),
    ("norms, not their squares", ".copy_(block).square_()", ".copy_(block).abs_()"),
    ("norms in the weight's own dtype", "dtype=torch.float64, device=W.device)", "dtype=W.dtype, device=W.device)"),
    ("norms of the first rows alone", "in W.split(BLOCK)", "in W[:BLOCK].split(BLOCK)"),
    ("inverted of the root", "1 / p, torch.zeros_like(p)", "1 / p.sqrt(), torch.zeros_like(p)"),
    ("columns of zeros drawn first", "torch.where(p > 0, 1 / p,", "torch.where(p >= 0, 1 / p,"),
    ("important ones where others are asked", 'if weighting == "inverted"', 'if weighting == "x"'),
    ("drawn once more than asked", "torch.multinomial(q, rank, repl", "torch.multinomial(q, 1, repl"),
    ("rows and columns from one draw of rows", "for squares in squared_norms(W):", "for squares in squared_norms(W)[:1] * 2:"),
    ("columns drawn before rows", "for squares in squared_norms(W):", "for squares in squared_norms(W)[::-1]:"),
    ("a squared norm for a norm", ".clamp_min(0).sqrt().item()", ".clamp_min(0).item()"),
    ("any rank", "not 1 <= rank <= min(shape)", "not 1 <= rank <= max(shape)"),
)
of(
    "curlora_lite/layers.py",
    ("alpha left out", "basis, alpha=self.alpha)", "basis, alpha=1)"),
    ("the bias goes through U", "if bias is not None:", "if False:"),
    ("U transposed", "self.U if self.transposed else self.U.T)", "self.U.T if self.transposed else self.U)"),
    ("the update rounded before it is merged", "(W.to(adapter_dtype(W)) + self.alpha * self.update()).to(W.dtype)", "W + (self.alpha * self.update()).to(W.dtype)"),
    ("merged without alpha", "W.to(adapter_dtype(W)) + self.alpha * self.update()", "W.to(adapter_dtype(W)) + self.update()"),
    ("a norm without alpha", "abs(self.alpha) * cur.product_norm", "cur.product_norm"),
    ("LoRA's A above zero alone", "* 2 * bound - bound", "* bound"),
    ("LoRA's initialisations exchanged", 'rank if init == "authors" else n_in', 'n_in if init == "authors" else rank'),
    ("LoRA's bound of the other width", 'init == "authors" else n_in)', 'init == "authors" else n_out)'),
    ("LoRA's B not zero", "torch.zeros(rank, n_out", "torch.ones(rank, n_out"),
    ("LoRA without alpha", "return y + self.alpha * (z @", "return y + (z @"),
    (
        "an exported adapter the other way round",
        "return (right, left) if self.transposed else (left.T, right.T)",
        "return (left.T, right.T) if self.transposed else (right, left)",
    ),
    ("adapters in the weight's dtype", "if weight.dtype == torch.float64 else torch.float32", "if weight.dtype == torch.float64 else weight.dtype"),
    ("the base trained too", "self.base = base.requires_grad_(False)", "self.base = base"),
    ("what is derived from the weight, of before", "weights.quantised(self.base.weight):\n            self.basis = self._basis()", "weights.quantised(self.base.weight):\n            pass"),
    ("loaded indices without their rows", "    layer.basis = layer._basis()", "    pass"),
    ("shared by adapters of other indices", "if same and torch.equal(own, theirs):", "if same:"),
    ("not in fp32 again after a cast", "(found if id(tensor) in derived else tensor).to(found.device, dtype)", "found"),
    (
        "a square projection taken for Conv1D's",
        "self.transposed = isinstance(base, nn.Linear)",
        "self.transposed = isinstance(base, nn.Linear) and base.in_features != base.out_features",
    ),
    ("U random at the start", "torch.zeros(rank, rank, dtype=adapter_dtype(W)", "torch.ones(rank, rank, dtype=adapter_dtype(W)"),
)
of(
    "curlora_lite/adapters.py",
    ("a merged weight stays", "weights.set_weight(layers[name].base, weight)", "pass"),
    ("a tied weight is merged into", "if len(seen) > len(wrapped) or weights.tied_head(model):", "if False:"),
    ("two projections with one weight merged", "if len(seen) > len(wrapped)", "if len(seen) > len(layers)"),
    ("a folded adapter forgotten", '    model.__dict__["_curlora_folded"] = True\n', ""),
    ("a plain model goes on warning", '"func", None) is method:', '"func", None) is None:'),
    ("frozen parameters counted", "for p in model.parameters() if p.requires_grad)", "for p in model.parameters())"),
    ("a merged adapter taken off", "if attached.merged and attached.active in gone:", "if False:"),
    ("a part of a name is enough", 'n.endswith(f".{target}")', "n.endswith(target)"),
    ("the model trains beside its adapter", "        model.requires_grad_(False)\n", "        pass\n"),
    ("trainable no more after a failure", "parameter.requires_grad_(trainable)", "pass"),
)
of(
    "curlora_lite/adapter_files.py",
    ("an index equal to the size", "indices.max() >= size", "indices.max() > size"),
    ("a negative index", "indices.min() < 0", "indices.min() < -1"),
    ("every projection gets the first U", "tensors, path, place, folder / TENSORS)", "tensors, path, 0, folder / TENSORS)"),
    ("a mixture of two saves", 'if description.get("tensors_sha256", digest) != digest:', "if False:"),
    ("numbers that are not finite", "if not torch.isfinite(value).all():", "if False:"),
    ("other weights", "unlike = other_base(layers, description, check_base)", "unlike = None"),
    ("other weights beside the wrapped ones", "unlike or other_rest(model, description, check_base):", "unlike:"),
    ("a head rounded in silence", "if not torch.equal(value, saved):", "if False:"),
    (
        "the active one saved, whatever is asked",
        "layers, config = layers_of(model, name), config_of(model, name)",
        "layers, config = layers_of(model), config_of(model)",
    ),
    ("columns for rows", 'getattr(layer, name).detach())', 'getattr(layer, "cols" if name == "rows" else name).detach())'),
    ("U not put in", "getattr(layer, name).data.copy_(value)", "pass"),
    ("alpha of another", "layer = CURLoRALinear(base, rank, config.alpha, indices", "layer = CURLoRALinear(base, rank, 1.0, indices"),
    ("added under one name", "attach(model, layers, trained, config, name)", 'attach(model, layers, trained, config, "default")'),
)
of(
    "curlora_lite/configs.py",
    ("a stream for all projections", 'f"{self.seed}/{name}"', 'f"{self.seed}"'),
    ("a stream for all seeds", 'f"{self.seed}/{name}"', 'f"{name}"'),
    ("the selection not passed on", "base, self.rank, self.alpha, self.selection, gen", 'base, self.rank, self.alpha, "eq4", gen'),
    ("the initialisation not passed on", "self.rank, self.alpha, self.init, gen", 'self.rank, self.alpha, "usual", gen'),
)
of(
    "curlora_lite/training.py",
    ("weight decay", "weight_decay=0.0", "weight_decay=0.01"),
    (
        "one tensor of the adapter never trained",
        "adapter = [p for p in backbone.parameters() if p.requires_grad]",
        "adapter = [p for p in backbone.parameters() if p.requires_grad][1:]",
    ),
    ("the head alone is trained", '{"params": adapter,', '{"params": adapter[:0],'),
    ("the adapter alone is trained", '"params": head.parameters()', '"params": [*head.parameters()] * (not adapter)'),
    ("the head at the adapter's rate", '"lr": head_rate', '"lr": recipe.learning_rate'),
    ("a missing label is class 0", "[-1 if label is None", "[0 if label is None"),
    ("left in training mode", "            setattr(module, name, p)\n        backbone.eval()", "            setattr(module, name, p)"),
    ("dropout stays on with checkpointing", "setattr(module, name, 0.0)", "pass"),
    ("dropout stays off afterwards", "            setattr(module, name, p)\n", "            pass\n"),
    ("no dropout where it is asked for", "backbone.train(dropout or checkpointing)", "backbone.train(checkpointing)"),
    ("features kept although dropout is on", "not (_has_dropout(backbone) or recipe.last_position)", "not recipe.last_position"),
    ("features kept although an adapter is trained", "    if frozen:\n        read", "    if True:\n        read"),
    ("no gradient for adapters", "return lambda rows: read(", "return lambda rows: torch.no_grad()(read)("),
    ("torch's own epsilon", "EPSILON, BETAS = 1e-6", "EPSILON, BETAS = 1e-8"),
    ("one AdamW for both protocols", 'if optimiser == "torch":', "if True:"),
    ("epsilon a step late", "BETAS[1] ** (step + 1))", "BETAS[1] ** (step + 2))"),
    ("another decay of the second moment", "(0.9, 0.999)", "(0.9, 0.99)"),
    ("warm-up begins above zero", "else peak * step / steps", "else peak * (step + 1) / steps"),
    ("warm-up reaches the nominal rate", "else peak * step / steps", "else step / steps"),
    ("a longer warm-up", "round(0.1 * steps)", "round(0.2 * steps)"),
    ("a cosine that ends at half", "0.5 * (1 + math.cos(math.pi * (step", "0.5 * (1 + math.cos(0.5 * math.pi * (step"),
    ("no schedule means no training", "return 1.0 if peak is None", "return 0.0 if peak is None"),
    ("the rate never moves", "            schedule.step()\n", ""),
    ("gradients add up", "            optimiser.zero_grad()\n", ""),
    ("the last rows of an epoch left out", "for i in range(0, rows, recipe.batch):", "for i in range(0, rows - recipe.batch + 1, recipe.batch):"),
    ("the same order each epoch", "        order = range(rows)\n", "        order = range(rows)\n        generator.manual_seed(recipe.seed)\n"),
    ("the shuffle's seed not used", "manual_seed(recipe.seed)\n    for _", "manual_seed(0)\n    for _"),
    ("shuffled in any case", "        if recipe.shuffle:\n", "        if True:\n"),
    ("an epoch too few", "for _ in range(recipe.epochs):", "for _ in range(max(1, recipe.epochs - 1)):"),
    ("no separator", "ids = ids + between + tokenizer(pair)", "ids = ids + tokenizer(pair)"),
    ("the second text of a pair left out", 'ids = ids + between + tokenizer(pair)["input_ids"]', "ids = ids + between"),
    ("cut from the front", "rows.append(ids[:max_length])", "rows.append(ids[-max_length:])"),
    ("padded on the left", "ids[i, : len(row)] = torch", "ids[i, -len(row) :] = torch"),
    ("read one token too early", "if last_position else lengths - 1", "if last_position else lengths - 2"),
    ("the last position read always", "torch.full_like(lengths, -1) if last_position else lengths - 1", "torch.full_like(lengths, -1)"),
    ("the last real token read always", "torch.full_like(lengths, -1) if last_position else lengths - 1", "lengths - 1"),
    ("a padding token is seen", "device=ids.device) < lengths[:, None]", "device=ids.device) <= lengths[:, None]"),
    ("no mask", "    if last_position:\n        mask =", "    if False:\n        mask ="),
    ("tokens counted with padding", "sum(len(encoded.ids[i]) for i in rows)", "len(rows) * max(len(encoded.ids[i]) for i in rows)"),
    ("losses summed over rows", "losses.append(loss.item())", "losses.append(loss.item() * len(rows))"),
    ("a loss that is not finite goes on", "if not torch.isfinite(loss):", "if False:"),
    ("steps without the last batch", "recipe.epochs * -(-len(encoded.ids) // recipe.batch)", "recipe.epochs * (len(encoded.ids) // recipe.batch)"),
    ("a label equal to the classes", "if not 0 <= label < classes:", "if not 0 <= label <= classes:"),
    ("a token id equal to the vocabulary", "max(row) >= vocabulary", "max(row) > vocabulary"),
    ("checkpointing left on", "            backbone.gradient_checkpointing_disable()\n", "            pass\n"),
)
of(
    "curlora_lite/scoring.py",
    ("predicted classes counted from the labels", "[predictions.count(c) for", "[references.count(c) for"),
    ("the majority from the answers", "counts = [references.count(c)", "counts = [predictions.count(c)"),
    ("the smallest class as majority", '"majority": max(counts)', '"majority": min(counts)'),
    ("the majority's share of classes", "max(counts) / n", "max(counts) / sum(counts[:2])"),
    (
        "answers in the order of lengths",
        "by_length(read or (lambda part: padded_features(backbone, part, pad_id)), rows)",
        "(read or (lambda part: padded_features(backbone, part, pad_id)))(sorted(rows, key=len))",
    ),
    ("another batch of the author's", "PUBLISHED_BATCH = 128", "PUBLISHED_BATCH = 64"),
    ("the author's batches by length", "parts = [rows[i : i +", "parts = [sorted(rows, key=len)[i : i +"),
    ("each window scored from its start", "if stride is None else max(done, start + 1)", "if True else max(done, start + 1)"),
    ("bf16 logits not cast", "F.cross_entropy(logits.float(), targets", "F.cross_entropy(logits, targets"),
    ("two to the mean", "math.exp(min(mean, 700.0))", "2 ** min(mean, 700.0)"),
    ("the first token counted", "tokens + end - first, end", "tokens + end - start, end"),
    ("perplexity in training mode", "    model.eval()\n    try:", "    try:"),
    ("windows far apart", "stride or window):", "window):"),
    ("mean of means", 'reduction="sum")', 'reduction="mean")'),
    ("any answer above the label is right", "sum(p == r for", "sum(p >= r for"),
    ("position read not passed on", "padded_features(backbone, part, pad_id, True)", "padded_features(backbone, part, pad_id)"),
)
of(
    "curlora_lite/metrics.py",
    ("forgetting counts the last stage", "for i in range(j, last)) - R", "for i in range(j, last + 1)) - R"),
    ("forgetting from the first score", "max(R[i][j] for i in range(j, last)) - R", "R[j][j] - R"),
    ("forgetting the other way round", "max(R[i][j] for i in range(j, last)) - R[-1][j]", "R[-1][j] - max(R[i][j] for i in range(j, last))"),
    ("BWT the other way round", "R[-1][j] - R[j][j] for j", "R[j][j] - R[-1][j] for j"),
    ("BWT over all tasks", "for j in range(_earlier(R)))", "for j in range(len(R)))"),
    ("ACC of the newest task", "return statistics.fmean(R[-1])", "return R[-1][-1]"),
    ("just learned from the last stage", "R[j][j] for j in range(len(R)))", "R[-1][j] for j in range(len(R)))"),
    ("a degree of freedom more", "len(values) - 1) * spread", "len(values)) * spread"),
    ("a deviation for a standard error", " * spread / math.sqrt(len(values))", " * spread"),
    ("the population's deviation", "statistics.stdev(values)", "statistics.pstdev(values)"),
    ("one side only", "stats.t.ppf((1 + level) / 2", "stats.t.ppf(level"),
    ("differences the other way round", "[a - b for a, b in", "[b - a for a, b in"),
    ("pairs not paired", "stats.ttest_rel(first, second)", "stats.ttest_ind(first, second)"),
    ("another interval than Wilson's", 'method="wilson"', 'method="exact"'),
    ("all p values times all", "(len(order) - place) * p_values", "len(order) * p_values"),
    ("a smaller p after a larger", "so_far = max(so_far, min(1.0,", "so_far = max(0.0, min(1.0,"),
    ("NaN counts", "judged = [i for i, p in enumerate(p_values) if not math.isnan(p)]", "judged = list(range(len(p_values)))"),
    ("seeds drawn anew for each task", "total += ((drawn @", "drawn = rng.permutation(drawn)\n        total += ((drawn @"),
    ("no spread is certainty", "p = 1.0 if abs(found.mean) <= 1e-9 else math.nan", "p = 1.0 if abs(found.mean) <= 1e-9 else 0.0"),
    ("a 90 % interval called 95 %", "np.quantile(total, [(1 - level) / 2, (1 + level) / 2])", "np.quantile(total, [1 - level, level])"),
)
of_replication(
    "sequence",
    (
        "earlier tasks scored with the newest head",
        "given = (model.base_model, head,",
        "given = (model.base_model, list(scored.values())[-1][0],",
    ),
    ("the head's seed not used", "torch.manual_seed(HEAD_SEED + seed)", "torch.manual_seed(HEAD_SEED)"),
    ("another seed of heads", "HEAD_SEED = 1311", "HEAD_SEED = 1131"),
    ("the adapter's seed not used", '"alpha": alpha, "seed": spec.seed}', '"alpha": alpha, "seed": 0}'),
    ("the shuffle's seed not passed on", '("learning_rate", "head_rate", "batch", "seed")', '("learning_rate", "head_rate", "batch")'),
    ("the heads' rate not passed on", '("learning_rate", "head_rate", "batch", "seed")', '("learning_rate", "batch", "seed")'),
    ("the dropout's seed not used", "torch.manual_seed(spec.seed)", "torch.manual_seed(0)"),
    ("alpha over rank where alpha is asked for", 'if protocol.scaling == "alpha/r" else', 'if protocol.scaling != "alpha/r" else'),
    ("norms not relative", "layer.update_norm() / layer.weight_norm()", "layer.update_norm()"),
    ("base perplexity remembered across protocols", "(spec.source, spec.protocol.perplexity, spec.text", "(spec.source, spec.text"),
    ("base perplexity remembered from tuning", "spec.text_window, spec.tune)", "spec.text_window)"),
    ("the last perplexity is the first", 'if spec.method == "head-only":  # the language', "if True:  # the language"),
    ("padding read on the wrong side", 'spec.model.padding_side == "right"', 'spec.model.padding_side == "left"'),
    ("padding read in all tasks", '_reads_padding(spec) and name.startswith("sentiment140")', "_reads_padding(spec)"),
    ("scores kept though the model changes", 'if spec.method == "head-only" and before', "if before"),
    ("LoRA's usual initialisation for both", "LoRAConfig(init=protocol.lora_init, ", "LoRAConfig("),
    ("drawn without replacement for both", "cur.Selection(protocol.weighting, protocol.replacement)", "cur.Selection(protocol.weighting, False)"),
    ("the whole text for its first tokens", "ids[: spec.text_tokens], spec.text_window, stride)", "ids, spec.text_window, stride)"),
    ("windows that do not overlap", "context, stride=context // 2)", "context, stride=context)"),
    ("halves side by side", 'stride = spec.text_window // 2 if spec.protocol.perplexity == "halves" else None', "stride = None"),
    ("halves of the whole text", 'if spec.protocol.perplexity == "whole-text":', 'if spec.protocol.perplexity != "first-tokens":'),
    ("a diverged run is finished", 'record.status, record.message = "diverged", str(error)', "record.message = str(error)"),
    ("the adapter left on the model", "                remove_adapters(loaded.model)\n", "                pass\n"),
    ("a checkpoint of other rows", "if any(read.get(name) != parts for name", "if False and any(read.get(name) != parts for name"),
    ("answers of the labels", 'return {**found, "answers": "".join(map(str, answers))}', 'return {**found, "answers": "".join(map(str, references))}'),
    (
        "the head is trained on other dropout",
        "with torch.random.fork_rng():\n        torch.manual_seed(HEAD_SEED",
        "if True:\n        torch.manual_seed(HEAD_SEED",
    ),
    ("checkpointing not passed on", '"checkpointing": spec.checkpointing}', '"checkpointing": False}'),
    ("the nominal peak for all", '"peak": task.peak, ', '"peak": 1.0, '),
    ("one epoch for all", '{"epochs": task.epochs, ', '{"epochs": 1, '),
    ("an own optimiser for both", '"schedule", "shuffle", "optimiser", "dropout")', '"schedule", "shuffle", "dropout")'),
    ("dropout never", '"schedule", "shuffle", "optimiser", "dropout")', '"schedule", "shuffle", "optimiser")'),
    ("other projections", 'common["target_modules"] = spec.model.target_modules', 'common["target_modules"] = spec.model.target_modules[:1]'),
)
of_replication("accuracy", ("answers for labels", "scoring.accuracy(predictions, references, classes)", "scoring.accuracy(references, predictions, classes)"))
of_replication(
    "baselines",
    ("factors without singular values", "P[:, :rank] * S[:rank]", "P[:, :rank]"),
    ("the smallest directions", "Qh[:rank].to", "Qh[-rank:].to"),
    ("M transposed", "self.M if self.transposed else self.M.T", "self.M.T if self.transposed else self.M"),
    ("alpha left out", "self.base(x) + self.alpha * F.linear", "self.base(x) + F.linear"),
)
of_replication(
    "cells",
    ("seed by seed no more", "sorted(dict.fromkeys(specs), key=lambda spec: spec.seed)", "list(dict.fromkeys(specs))"),
    ("a run twice", "sorted(dict.fromkeys(specs), key", "sorted(specs, key"),
    ("the rate that ends worst", ".idxmax()", ".idxmin()"),
    ("a best rate at the end of what was looked at", "if best in (rates[0], rates[-1]):", "if best == rates[0]:"),
    ("a best rate of the others' runs", "found.run.isin(list(asked)) & ", ""),
    ("a run out of memory has a rate", ' & (found.status != "out of memory")', ""),
    ("quick runs read the whole text", '",perplexity=first-tokens" * (profile == "audit-quick")', '""'),
    ("chosen with runs missing", "if absent := set(rates) - set(found.learning_rate):", "if absent := set():"),
    ("a quarter of a rate is the rate", '"/4": 1 / 4', '"/4": 1'),
    ("adapters tuned before their heads", 'int(cell["heads"] != "-") if', "1 if"),
    ("heads at the adapter's rate", 'how["head_rate"] = _rate(cell["heads"], best)', "pass"),
    ("a quarter is a half", '"/4": 1 / 4', '"/4": 1 / 2'),
    ("tuned on what is scored", '{"tune": True, "profile"', '{"tune": False, "profile"'),
    ("tuning among the results", '"profile": f"{profile}-tune"}', '"profile": profile}'),
    ("all seeds of a cell whatever is asked", "if s in (seeds or [s])]", "]"),
    ("two processors in a seed", "found.seed.isin([spec.seed for spec in specs]) &", "(found.seed < 0) &"),
    ("refused for old records", "found[found.version == sequence.VERSION]", "found"),
    ("one seed's processor for all", "found.seed.isin([spec.seed for spec in specs]) &", "(found.seed >= 0) &"),
    ("computed without bf16", 'if machine.fast_precision() != "bf16":', "if False:"),
    ("another precision than bf16", 'precision = "bf16" if whole.source', 'precision = fast if whole.source'),
    ("a shorter text", '"text_tokens": 65_536', '"text_tokens": 65_563'),
)
of_replication(
    "checkpoints",
    ("dropout goes on elsewhere", 'torch.set_rng_state(tensors["generator cpu"])', "pass"),
    ("heads begin anew", 'tensors[f"head {task} {n}"] for n', "head.state_dict()[n] for n"),
    ("adapters begin anew", 'parameter.copy_(tensors[f"model {name}"])', "pass"),
    ("of another version", '("spec", "version", "model_sha256")', '("spec", "model_sha256")'),
    ("of another spec", '("spec", "version", "model_sha256")', '("version", "model_sha256")'),
    ("of other weights", '("spec", "version", "model_sha256")', '("spec", "version")'),
    ("of another commit", "if same and _place(kept) == _place(vars(record))", "if same"),
)
of_replication(
    "corpus",
    ("repeated texts on both sides", "key = text.lower()", "key = text"),
    ("a boundary rating is neutral: negative", "if rating <= NEGATIVE else", "if rating < NEGATIVE else"),
    ("a boundary rating is neutral: positive", "if rating >= POSITIVE else", "if rating > POSITIVE else"),
    ("a review on two sides", 'row_id.split("_")[0]', "row_id"),
    ("texts escaped once", "html.unescape(html.unescape(text))", "html.unescape(text)"),
    ("re-paired within a review", "if pairs[i][0] != pairs[here][0])", "if i != here)"),
    ("re-paired and called the same", "pairs[donor][2], 0)", "pairs[donor][2], 1)"),
    ("a larger evaluation part", '"eval": 0.25', '"eval": 0.35'),
    ("held-out rows of the training part", 'part = "eval" if part == "held-out"', 'part = "train" if part == "held-out"'),
    ("neutral sentences are positive", '"sst2": (0, None, 1)', '"sst2": (0, 1, 1)'),
    ("rows in the file's order", "sorted(rows.values(), key=lambda row: _hash(row[0]))", "list(rows.values())"),
)
of_replication(
    "data",
    ("a digest without labels", "json.dumps(dataset.to_list())", 'json.dumps(dataset["text"])'),
    ("held-out rows in two classes", ' and part != "held-out" else 2', " else 2"),
    ("balanced by neutral ones", "for sentiment in (0, 4)]", "for sentiment in (0, 2)]"),
    ("the first rows not sorted", "return sorted(examples, key=lambda row: row[2])", "return examples"),
    ("the last rows", "examples = examples[:rows]", "examples = examples[-rows:]"),
    ("three labels for both", 'by = 4 if protocol.labels == "sentiment//4"', 'by = 2 if protocol.labels == "sentiment//4"'),
    ("all text's digests alike", "hashlib.sha256(text.encode())", "hashlib.sha256(text[:0].encode())"),
    ("not balanced", "(side[:half] for side in sides)", "(side for side in sides)"),
    ("rates chosen on one side", 'if part in ("eval", "tune"):', 'if part == "eval":'),
)
of_replication(
    "figures",
    ("negative tweets alone", "counted = runs.BALANCED if even else task", "counted = task"),
    ("names on each other", "place + 0.08 * (high - low)", "place"),
    ("a name at another line", "for y, name, colour in sorted(ends)", "for (y, *_), (_, name, colour) in zip(sorted(ends), ends)"),
    ("the majority class of nothing", "ax.axhline(first.majority", "ax.axhline(0.5"),
    ("bars of a standard error", "stages.value.mean(), stages.value.std()", "stages.value.mean(), stages.value.sem()"),
    ("diverged runs drawn", 'rows = rows[rows.status == "finished"]', "rows = rows"),
    ("a median of growth", "np.exp(nats.mean())", "np.exp(nats.max())"),
    ("Wilson's interval upside down", "[[i.mean - i.low for i in found], [i.high - i.mean", "[[i.high - i.mean for i in found], [i.mean - i.low"),
)
of_replication(
    "fused",
    ("keys before queries", '("qkv_proj", "qkv")', '("qkv_proj", "kqv")'),
    ("dropout none", "DROPOUT = 0.1", "DROPOUT = 0.0"),
    ("stored as a Linear is", "weight.detach().T.contiguous()", "weight.detach().T.contiguous() * 1.01"),
    ("other positions", "fused.model.rotary_emb = model.model.rotary_emb", "pass"),
)
of_replication(
    "grids",
    ("a record of other weights is reused", "return record if same and record.model_sha256 == model else None", "return record if same else None"),
    ("a record of other rows is reused", "return record if same and record.model_sha256 == model", "return record if record.model_sha256 == model"),
    ("anybody's record is one's own", "not records.computed_here(record)", "False"),
    ("of another version", "record.version != sequence.VERSION or not", "not"),
    ("a record of another base is reused", " or not first_contact.accepted(record)", ""),
    ("checkpoints stay", "kept(spec).unlink(missing_ok=True)", "pass"),
    ("only one's own goes on", 'if own != "anybody" and not', "if not"),
)
of_replication(
    "hub",
    ("a sha256 of the first shard", "return hashes[0] if len(hashes) == 1 else", "return hashes[0] if hashes else"),
    ("shards in another order", "sorted(folder(repository).glob(pattern))", "sorted(folder(repository).glob(pattern), reverse=True)"),
    ("the first shard of the rows alone", "for file in files:\n        try", "for file in files[:1]:\n        try"),
    ("lines of the text apart", 'whole = "".join(row[0] for row', 'whole = "\\n".join(row[0] for row'),
    ("content not checked", "if expected not in (None, found):", "if False:"),
    ("rows kept aside trained on", "== aside]", "!= aside]"),
    ("kept aside though published", 'if split == "eval" or sentiment_eval == "first":', 'if split == "eval":'),
    ("rates chosen on rows that are trained on", 'paper.TRAIN_ROWS["table1"][task] * tune :]', "0:]"),
    ("rates chosen on rows that are scored", "return negative[paper.EVAL_ROWS[task] :] + positive[paper.EVAL_ROWS[task] :]", "return negative + positive"),
    ("rates chosen on all negative rows", "return negative[paper.EVAL_ROWS[task] :] + positive[paper.EVAL_ROWS[task] :]", "return negative[paper.EVAL_ROWS[task] :]"),
    ("the text that is scored read for tuning", 'whole[len(whole) // 2 :] if part == "tune" else whole', "whole"),
    ("all files of a repository", 'if pattern.endswith(".safetensors")]', 'if pattern.endswith(".safetensors")] and ["*.safetensors"]'),
)
of_replication(
    "inputs",
    ("tuning text for evaluation", 'text = data.load_text("tune" if spec.tune else "eval"', 'text = data.load_text("tune"'),
    ("never a separator", "spec.max_length, spec.protocol.separator)", "spec.max_length, False)"),
    ("rows of any length", "loaded.tokenizer, spec.max_length,", "loaded.tokenizer, 512,"),
    ("the text remembered from tuning", '("ids", spec.source, spec.tune)', '("ids", spec.source)'),
    ("evaluation rows trained on too", 'if part == "train":', 'if part == "eval" or part == "train":'),
    (
        "digests of one part",
        "{part: data.digest(rows) for part, rows in texts_of.items()}",
        "{part: data.digest(rows) for part, rows in list(texts_of.items())[:1]}",
    ),
)
of_replication(
    "models",
    ("a layer too few", '"num_hidden_layers": 32,', '"num_hidden_layers": 31,'),
    ("heads of keys", '"num_key_value_heads": 8}', '"num_key_value_heads": 32}'),
)
of_replication(
    "paper",
    ("a published number mistyped", '0.66, 0.94, 0.66, 0.86, 5.44),\n        ("lora", 16)', '0.66, 0.49, 0.66, 0.86, 5.44),\n        ("lora", 16)'),
    ("columns of two ranks exchanged", '("curlora", 24): (28.25, 0.70, 0.86', '("curlora", 24): (28.25, 0.70, 0.79'),
    ("rows of the table exchanged", '("sst2", 2), ("mrpc", 2)', '("mrpc", 2), ("sst2", 2)'),
    ("another majority", "279 / 408", "297 / 408"),
    ("other sizes", '"sst2": 5024', '"sst2": 5042'),
    ("another count published", "1_474_560", "1_475_460"),
)
of_replication(
    "profiles",
    (
        "another rate at the paper's sizes",
        'PEAKS["table1"])\n    return TablePlan(model, tasks, 2.5e-4, 8',
        'PEAKS["table1"])\n    return TablePlan(model, tasks, 2.5e-3, 8',
    ),
    ("another batch", "return TablePlan(model, tasks, 2.5e-4, 32,", "return TablePlan(model, tasks, 2.5e-4, 16,"),
    ("three epochs for five", "(408, 872, 1024), (3, 3, 5)", "(408, 872, 1024), (3, 3, 3)"),
    ("fewer rows", "(3668, 5024, 498)", "(3668, 5000, 498)"),
    ("steps of another table", "375 / WARMUP, 375 / WARMUP, 189", "375 / WARMUP, 345 / WARMUP, 189"),
    ("a schedule where there is none", "471 / WARMUP, None)", "471 / WARMUP, 80 / WARMUP)"),
    ("queries and values alone", '_LLAMA_TARGETS = ("q_proj", "k_proj", "v_proj")', '_LLAMA_TARGETS = ("q_proj", "v_proj")'),
    ("alpha of two", '"alpha": 1.0}', '"alpha": 2.0}'),
    ("seeds of the first alone", "seed=seed, **how", "seed=each[0][0], **how"),
    ("as many seeds for all", "seeds or plan.more.get(cell[1], plan.seeds)", "seeds or plan.seeds"),
    ("two classes of tweets", "(2, 2, 3)", "(2, 2, 2)"),
    ("what is asked for otherwise is left out", "**same | own | others", "**others | same | own"),
)
of_replication(
    "protocol",
    ("published rows shuffled", '"shuffle": (False, True, BOTH)', '"shuffle": (True, True, BOTH)'),
    ("the author's draw corrected", '"weighting": ("smoothed", "inverted"', '"weighting": ("inverted", "inverted"'),
    ("replacement corrected", '"replacement": (True, False, BOTH)', '"replacement": (False, False, BOTH)'),
    ("no dropout published", '"dropout": (True, False, BOTH)', '"dropout": (False, False, BOTH)'),
    ("torch's AdamW published", '"optimiser": ("transformers", "torch", (', '"optimiser": ("torch", "torch", ('),
    ("last real token published", '"readout": ("last-position", "last-token", (', '"readout": ("last-token", "last-token", ('),
    ("three labels published", '"labels": ("sentiment//4", "three", (', '"labels": ("three", "three", ('),
    ("corrected rows not separated", '"separator": (False, True, BOTH)', '"separator": (False, False, BOTH)'),
    ("corrected schedule as published", '"schedule": ("records", "steps", (', '"schedule": ("records", "records", ('),
)
of_replication(
    "rules",
    ("a cost where no line reaches", "if min(g, h) <= gain <= max(g, h):", "if gain <= max(g, h):"),
    ("the dearest way to a gain", "return min(found, default=math.nan)", "return max(found, default=math.nan)"),
    ("a verdict by one interval", "if p < 0.05 and all(low > 0 or", "if p < 0.05 and any(low > 0 or"),
    ("a verdict without p", "if p < 0.05 and all(low", "if all(low"),
    ("no difference within one interval", "within = all(", "within = any("),
    ("the margin of one side", "-margin < low and high < margin", "high < margin"),
)
of_replication(
    "records",
    ("a record of another spec", "record.spec == spec.to_dict() and record", "record"),
    ("of other packages", '{"workspace": workspace(), "packages": packages()}', '{"workspace": workspace()}'),
    ("of another working copy", '{"workspace": workspace(), "packages": packages()}', '{"packages": packages()}'),
    ("the old record lost", "    if path.exists():\n        old =", "    if False:\n        old ="),
)
of_replication(
    "runs",
    ("perplexity before and after exchanged", '(("initial", 0), ("final", last))', '(("final", 0), ("initial", last))'),
    ("the ratio upside down", "ratio=found.after / found.before", "ratio=found.before / found.after"),
    ("nats gained", "nats=np.log(found.after / found.before)", "nats=np.log(found.before / found.after)"),
    ("BWT in forgetting's column", '"forgetting": metrics.forgetting,', '"forgetting": metrics.backward_transfer,'),
    ("ACC in the other column", '"just_learned": metrics.plasticity,', '"just_learned": metrics.average_accuracy,'),
    ("diverged runs in the summary", 'runs[runs.status == "finished"].groupby', "runs.groupby"),
    ("the loss of the first epoch", '[-(len(trained["losses"]) // of["epochs"]) :]', '[: len(trained["losses"]) // of["epochs"]]'),
    ("the first norm", "norm.iloc[-1] if len(norm)", "norm.iloc[0] if len(norm)"),
    ("the largest norm", "sum(norms) / len(norms)", "max(norms)"),
    ("negative rows count", "if beside in scores.index else", "if False else"),
    ("the share of class 0 answered", 'max(score["predicted"]) / score["n"]', 'score["predicted"][0] / score["n"]'),
    ("perplexity in another order", 'sort_values("stage").value\n        norm', 'sort_values("value").value\n        norm'),
    ("all scores after the first stage", 'row = _row(i, task, "accuracy"', 'row = _row(1, task, "accuracy"'),
)
of_replication(
    "specs",
    ("a key without the seed's settings", "text = json.dumps(self.to_dict(), sort_keys=True)", 'text = json.dumps(self.to_dict()["protocol"], sort_keys=True)'),
    ("any rank", 'whole("rank", self.rank, 1) > largest', "self.rank > largest"),
    ("a rank above the largest", 'if whole("rank", self.rank, 1) > largest', 'if not whole("rank", self.rank, 1)'),
    ("evaluation rows where tuning is asked for", "(scored, task.eval_rows, protocol)", '("eval", task.eval_rows, protocol)'),
    ("balanced evaluation rows for tuning", "(scored, task.eval_rows // 2", '("eval", task.eval_rows // 2'),
    ("rows kept out scored for tuning", "and three and not self.tune:", "and three:"),
    ("trained on what is scored", '("train", task.train_rows, protocol)', '("eval", task.train_rows, protocol)'),
    ("balanced rows are the first ones", "task.eval_rows // 2 * 2, balanced)", "task.eval_rows // 2 * 2, protocol)"),
    ("largest rank of another model", '"smollm2-135m": 192', '"smollm2-135m": 576'),
    ("labels exchanged", '"lora": "LoRA", "curlora": "CURLoRA"', '"lora": "CURLoRA", "curlora": "LoRA"'),
)
of_replication(
    "tables",
    ("the population's deviation", "number(values.std())", "number(values.std(ddof=0))"),
    ("published numbers of the other table", "paper.PUBLISHED[table].get(", 'paper.PUBLISHED["table1"].get('),
    ("LaTeX's % not escaped", 'for c in "&%_#{}$"}', 'for c in "&_#{}$"}'),
    ("LaTeX's _ not escaped", 'for c in "&%_#{}$"}', 'for c in "&%#{}$"}'),
    ("LaTeX not escaped in cells", "table.rename(index=_tex, columns=_tex).map(_tex)", "table.rename(index=_tex, columns=_tex)"),
    ("a constant answer in all runs alone", "(mine.answered >= CONSTANT).any()", "(mine.answered >= CONSTANT).all()"),
    ("another share of a constant answer", "CONSTANT = 0.95", "CONSTANT = 0.97"),
    ("constant answers of one kind", "for c in (share, 1 - share))", "for c in (share,))"),
    ("diverged runs in the means", 'rows[rows.status == "finished"], []', "rows, []"),
    ("three decimals less", "0 if value >= 1000 else 2}f", "0 if value >= 10 else 2}f"),
    ("ACC's column holds another", '"ACC": "acc"', '"ACC": "just_learned"'),
    ("the sum of seconds", 'groupby("label").seconds.mean()', 'groupby("label").seconds.sum()'),
    ("a mark without its line", "if mark in cells)", "if mark not in cells)"),
    ("LoRA after CURLoRA", "rows.method.map([*METHODS, *BASELINES].index)", "rows.method.map([*METHODS[::-1], *BASELINES].index)"),
    ("the median", "number(values.mean() if middle", "number(values.median() if middle"),
    ("after the wrong task", "after = tuple(TASKS)[stage - 1]", "after = tuple(TASKS)[::-1][stage - 1]"),
    ("runs of two protocols side by side", 'SHARED = ("profile", "model", "protocol", ', 'SHARED = ("profile", "model", '),
    ("other counts", "config(rank=rank, target_modules=targets)", "config(rank=rank, target_modules=targets[:1])"),
    ("sizes of the other table", "paper.TRAIN_ROWS[spec.table] | paper", 'paper.TRAIN_ROWS["table1"] | paper'),
    ("the interval of another share", "metrics.wilson_interval(0.7, fewest)", "metrics.wilson_interval(0.5, fewest)"),
    ("all runs counted as finished", "{(status == 'finished').sum()} of", "{len(status)} of"),
    ("finished runs counted by rows", 'cell.drop_duplicates("run").status', "cell.status"),
    ("an arithmetic mean of growth", "mean(mine.ratio, math.exp(mine.nats.mean()))", "mean(mine.ratio)"),
    ("fewer seeds of a method not said", " or len(set(finished.values())) > 1:", ":"),
)
of_replication(
    "machine",
    ("bf16 where its instructions may not be used", "if re.fullmatch(WITHOUT_BF16", "if False and re.fullmatch(WITHOUT_BF16"),
    ("busy while nobody else computes", "if load > there + 1 else", "if load > there else"),
)
of_replication(
    "verify",
    ("other weights are equal", 'PASSING = ("provenance", ', 'PASSING = ("provenance", "model_sha256", '),
    ("other data are equal", 'PASSING = ("provenance", ', 'PASSING = ("provenance", "data", '),
    ("twice what was measured", "off[kind] > allowed[kind] for", "off[kind] > 2 * allowed[kind] for"),
    ("norms absolute", '("measure") == "accuracy", off', '("measure") != "perplexity", off'),
    ("any number of threads", '"packages", "threads", "rows")', '"packages", "rows")'),
    ("shares of other answers", "/ len(pair[0])", "/ (2 * len(pair[0]))"),
    ("the smallest deviation", 'off.groupby("measure").max()', 'off.groupby("measure").min()'),
    ("what one side lacks is near", "fillna(math.inf)", "fillna(0.0)"),
    ("other weights elsewhere", "[(run.status, run.model_sha256)", "[(run.status,)"),
    ("other rows elsewhere", "return one == other and read and", "return one == other and"),
    ("another run elsewhere", "return one == other and read and", "return read and"),
    ("computed slowly in bf16", 'if machine.fast_precision() == "bf16" else {"precision": "fp32"}', 'if True else {"precision": "fp32"}'),
)
of(
    "notebooks/table1_mistral.ipynb",
    ("what was lost, the other way round", 'scores.loc[(1, "mrpc")] - scores.loc[(2, "mrpc")]', 'scores.loc[(2, "mrpc")] - scores.loc[(1, "mrpc")]'),
    ("another stage's accuracy", 'sst2 = scores.loc[(3, "sst2")]', 'sst2 = scores.loc[(2, "sst2")]'),
    ("a norm of the other method", "share = norm[curlora] / norm[lora]", "share = norm[lora] / norm[curlora]"),
    ("a head of another name", "gain = means.acc - means.acc[head]", "gain = means.acc - means.acc[lora]"),
    ("perplexity of the summary's other column", 'groupby("label").nats.mean()', 'groupby("label").norm.mean()'),
    ("a table under another's name", 'folder / "tables" / "table1"', 'folder / "tables" / "table2"'),
    ("a bound of the other end", "interval.low < majority", "interval.high < majority"),
    ("the summary of nothing", 'tables.summary(frame, "table1")', 'tables.results(frame, "table1")'),
)
of(
    "notebooks/table2_gpt2.ipynb",
    ("change the other way round", "change = mrpc.loc[3] - mrpc.loc[1]", "change = mrpc.loc[1] - mrpc.loc[3]"),
    ("ratios exchanged", "reindex([lora, curlora])", "reindex([lora, curlora]).set_axis([curlora, lora])"),
    ("the accuracy of another task", 'filter(like="sentiment140", axis=0)', 'filter(like="mrpc", axis=0)'),
)
of(
    "notebooks/audit.ipynb",
    ("a schedule compared with itself", "list(steps.values())[3]", "list(steps.values())[1]"),
    (
        "the other readout first",
        'columns=["published, readout=last-token", "published"]',
        'columns=["published", "published, readout=last-token"]',
    ),
    ("another class counted as negative", 'even.answers.str.count("0")', 'even.answers.str.count("1")'),
    ("less the wrong way round", "metrics.paired(pair[first], pair[second])", "metrics.paired(pair[second], pair[first])"),
    (
        "published and corrected exchanged",
        "published, corrected = gains[STAND_IN + CURLORA],",
        "corrected, published = gains[STAND_IN + CURLORA],",
    ),
    ("nats for a factor", "np.exp(mean.nats).map(times)", "mean.nats.map(times)"),
    ("another majority", 'counted.groupby("source").majority.mean()', 'counted.groupby("source").majority.max()'),
    ("the means of two methods exchanged", "mean = by_seed.mean().unstack(0)", "mean = by_seed.median().unstack(0)"),
    (
        "all p values as they are",
        "adjusted = metrics.holm([over[0].p for over in found] + [1.0] * further)",
        "adjusted = [over[0].p for over in found]",
    ),
    ("a family without those to come", " + [1.0] * further", ""),
    ("ten times the margin", "MARGIN = 0.02", "MARGIN = 0.2"),
    ("rows forgotten since their own stage", "max(s, key=np.mean) - run", "s[0] - run"),
    ("no seed left out", ".drop(index=without or [])", ""),
)
of(
    "curlora_lite/attached.py",
    ("one that is not active does not follow", "        layer.refresh()\n", ""),
    ("disabled for good", "        if before in attached_to(model).layers and", "        if False and"),
    ("a merged model saved as an adapter", "self.active is not None and not self.merged", "self.active is not None"),
    ("heads that are not put back", "        replace(model, path, own.train(head.training))\n", ""),
    ("adapters over PEFT's", 'if getattr(model, "peft_config", None):', "if False:"),
    ("the model's head in the mode it was in", "own.train(head.training)", "own"),
    ("an adapter's head in the mode it was in", "head.train(attached.own[path].training)", "head"),
    ("a model saved with an adapter in it, in silence", "    if attached_to(model).stands:\n        warnings", "    if False:\n        warnings"),
    ("heads trained once for all adapters", "attached.heads[attached.active][path] = head", "pass"),
    ("an adapter's heads left where they stand", "replace(model, path, head.train(attached.own[path].training))", "pass"),
)
of(
    "curlora_lite/base_check.py",
    ("only equal numbers are the same rounded", "if finer or (rounded and last in", "if False and (rounded and last in"),
    ("rounded where exact is asked for", 'rounded = check == "rounded" and isinstance', "rounded = isinstance"),
    ("what stands beside the loaded one is left out", "attached.layers.get(attached.active, ())", "[p for f in attached.layers.values() for p in f]"),
    ("numbers that were trained are taken for frozen", " or within(name, own) or tensor.is_meta:", " or tensor.is_meta:"),
    ("a checksum of rows only", "for part in (W[rows], W[:, cols]):", "for part in (W[rows],):"),
    ("other weights accepted when rounded", "if check == \"rounded\" and (finer or coarser):", "if check == \"rounded\":"),
    ("other weights accepted when exact", "if check == \"rounded\" and (finer or coarser):", "if finer or coarser:"),
)
of(
    "curlora_lite/peft_files.py",
    ("PEFT's alpha not times the rank", '"alpha times rank", config.alpha * config.rank', '"alpha times rank", config.alpha'),
    ("A and B exchanged", '("lora_A", "lora_B"), layer', '("lora_B", "lora_A"), layer'),
    ("heads left behind", "        tensors |= finite_tensors({path: head})\n", "        pass\n"),
    ("no fan-in fan-out", "isinstance(layer.base, Conv1D) for layer", "False for layer"),
)
of_replication(
    "llama",
    ("rows see each other", "ahead.triu(1).to(", "ahead.triu(9).to("),
    ("a token sees the next", "ahead.triu(1).to(", "ahead.triu(2).to("),
    ("read too early", "ends = lengths.cumsum(0) - 1", "ends = lengths.cumsum(0) - 2"),
    ("bf16 states", "_mlp(last, x)).float()", "_mlp(last, x))"),
    ("no last norm", "return _norm(backbone.norm, _mlp(last, x)).float()", "return _mlp(last, x).float()"),
    ("positions go on from row to row", "positions = torch.cat([torch.arange(len(row), device=device) for row in rows])", "positions = torch.arange(sum(map(len, rows)), device=device)"),
    ("gradients rotated the same way again", "sin = -self.sin if back else self.sin", "sin = self.sin"),
    ("scores' gradient not scaled", "P.dtype).mul_(ctx.scaling)", "P.dtype)"),
    ("a norm's gradient without its own change", "torch.addcmul(wide, unit, along, value=-1)", "wide"),
    ("keys' gradients for queries", "S.mT @ Q, kv", "S @ K, kv"),
)
of(
    "curlora_lite/replication/sources.toml",
    ("validation rows trained on", '"mrpc/train-*.parquet"', '"mrpc/validation-*.parquet"'),
    ("training rows scored", '"sst2/validation-*.parquet"', '"sst2/train-*.parquet"'),
    ("Sentiment140's splits as they are named", '"sentiment140/test/*.parquet"', '"sentiment140/train/*.parquet"'),
)
of_replication(
    "first_contact",
    ("any perplexity before training", "if not accepted(record):", "if False:"),
    ("any ids", "if (found := tokenizer(text)[\"input_ids\"]) != ids:", "if (found := []) != []:"),
)
of(
    "curlora_lite/heads.py",
    ("a head shared by all adapters", "made = copy.deepcopy(own, {id(hook): copy.copy(hook) for hook in hooks if hook})", "made = own"),
    ("a classifier's head frozen", "if asked is None or found:", "if False:"),
    ("a head's first tensor alone saved", "isinstance(tensor, torch.Tensor) and id(tensor) not in seen", "isinstance(tensor, torch.Tensor) and not seen"),
    ("a tied weight left behind", "if any(id(p) in trained for p in module.parameters(recurse=False)):", "if False:"),
    ("a head in the dtype of before", "tensor.data = tensor.data.to(like.device, like.dtype)", "pass"),
)
of(
    "curlora_lite/modules.py",
    ("names that carry the wrapper's", "module, seen = unwrapped(model), set()", "module, seen = model, set()"),
    ("gradients that are not averaged, in silence", "if wrapped and distributed.get_world_size(model.process_group) > 1:", "if False:"),
)
of(
    "curlora_lite/weights.py",
    ("a weight kept elsewhere not fetched", "return hook.weights_map[name].to(hook.execution_device, found.dtype) if hook else found", "return found"),
    ("what is trained taken away by a hook", "    hook.offload = False\n", "    pass\n"),
    ("the merged weight kept in place of the one before", "before = kept[key]", "before = weight"),
    ("unmerged in the dtype of before a cast", "base.weight.data = weight.to(base.weight.device, base.weight.dtype)", "base.weight.data = weight"),
    ("numbers that are not finite saved", "if not torch.isfinite(tensor).all():", "if False:"),
    ("tensors of inference mode", "        torch.inference_mode(False),\n", ""),
    ("owners that go past a projection's forward not seen", "if re.search(use, inspect.getsource(cls)):", "if False:"),
)
of(
    "curlora_lite/trainer.py",
    ("a checkpoint without its adapter", "            save_adapter(model, save_directory)\n", "            pass\n"),
    ("the frozen model in each checkpoint", "if _plain(k) in kept}", "}"),
    ("checkpoints by the hub's names", 'kwargs["save_original_format"] = False', "pass"),
)
of(
    "curlora_lite/scoring.py",
    ("a text's parts from the last to the first", "[*states.split(LOGIT_CHUNK, dim=1)][::-1]", "[*states.split(LOGIT_CHUNK, dim=1)]"),
)
of(
    "curlora_lite/adapter_files.py",
    ("no word of a head that is not in the file", "and not trained and (own := heads.of_its_own(model)):", "and not trained and (own := []):"),
)
of(
    "curlora_lite/adapters.py",
    ("a merged adapter's copy kept under the next", "        fold_adapter(model)\n    install", "        attached.merged = {}\n    install"),
)
