"""The author's notebooks, run as they are on what `oracle.py` hands over, in their time's Python.

`python authors.py CODE FOLDER RUN`: CODE is the folder `code` of a clone of the author's
repository, FOLDER holds rows, tokenizer, weights, and what our run of this name drew at random;
what the author's code did with them is written there as `RUN.theirs.pt`. Needs torch and
transformers 4.42 (with its own AdamW), nothing of this project.

Nothing of the author's is kept here: files are read, and objects replaced while they run. What it
takes:

- Rows, weights and tokenizer come from FOLDER (`load_dataset` and `from_pretrained` are replaced).
- What is drawn at random is ours: `np.random.choice` hands out our indices (and keeps the
  probabilities it is given), LoRA's A is overwritten. Heads are drawn by the author's own seed.
- There is no GPU here: the device "cuda" is read as "cpu". With one, the published code would stop
  where it asks whether a `torch.device` equals "cuda", which it never does.
- LoRA's wrapper asks a `Conv1D` for `in_features` and `out_features`, which it lacks; it gets them.
- The widths 4096 and 1280 of heads are read as the small model's. Rank, length of rows and length
  of the text are fixed in `utils.py`, at Mistral's; GPT-2's stand in its comments.
"""

import gc
import json
import os
import sys
import types
from pathlib import Path

os.environ |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

NOTEBOOKS = {  # run -> the author's notebook of it
    "table1 lora": "lora_experiment.ipynb",
    "table1 curlora": "curlora_experiment.ipynb",
    "table2 lora": "lora_experiment-gpt.ipynb",
    "table2 curlora": "curlora_experiment-gpt.ipynb",
}
EVALUATIONS = {
    "evaluate_mrpc": "mrpc",
    "evaluate_sst2": "sst2",
    "evaluate_sentiment": "sentiment140",
}
TEXT = 10_000  # tokens, in the author's `utils.py`


class Rows:
    """As much of a `datasets.Dataset` as is used: its columns' first rows, and how many it has."""

    def __init__(self, columns, length):
        self.columns, self.length = columns, length

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        wanted = range(self.length)[key]
        cut = {name: values[key] for name, values in self.columns.items()}
        assert all(len(values) == len(wanted) for values in cut.values()), (
            "more rows than handed over"
        )
        return cut

    def __iter__(self):
        for values in zip(*self.columns.values()):
            yield dict(zip(self.columns, values))


class Author:
    """One notebook at work: what it is given, and what it does."""

    def __init__(self, code, folder, run):
        self.code, self.folder, self.run = Path(code), Path(folder), run
        self.given = torch.load(self.folder / f"{run}.ours.pt")
        self.settings = json.loads((self.folder / "settings.json").read_text("utf-8"))[run.split()[0]]
        self.found = {"losses": [], "rates": [], "perplexity": [], "evaluations": []}
        self.found |= {"probabilities": [], "transformers": transformers.__version__}

    def source(self, text):
        """The text of a file or cell, with this model's width and the device there is."""
        width = str(self.settings["config"].get("hidden_size") or self.settings["config"]["n_embd"])
        for theirs, here in (
            ('"cuda"', '"cpu"'),
            ("'cuda'", "'cpu'"),
            ("4096", width),
            ("1280", width),
        ):
            text = text.replace(theirs, here)
        return text

    def module(self, name, **values):
        """One of the author's modules, imported; values: of its globals, set afterwards."""
        made = sys.modules[name] = types.ModuleType(name)
        exec(
            compile(self.source((self.code / f"{name}.py").read_text("utf-8")), name, "exec"),
            made.__dict__,
        )
        for key, value in values.items():
            assert hasattr(made, key), key
            setattr(made, key, value)
        return made

    def hand_over(self):
        """Put what is ours, and what watches, in the place of what the notebooks ask for."""
        rows = json.loads((self.folder / "rows.json").read_text("utf-8"))
        rows = {
            name: {part: Rows(**kept) for part, kept in parts.items()}
            for name, parts in rows.items()
        }
        names = {
            ("glue", "mrpc"): "mrpc",
            ("glue", "sst2"): "sst2",
            ("sentiment140",): "sentiment140",
        }

        def load_dataset(*asked, split=None):
            return rows["text"][split] if split else rows[names[asked]]

        sys.modules["datasets"] = types.SimpleNamespace(load_dataset=load_dataset)
        sys.modules["evaluate"] = types.ModuleType("evaluate")
        sys.modules["huggingface_hub"].notebook_login = lambda: None
        transformers.AutoModelForCausalLM = types.SimpleNamespace(
            from_pretrained=lambda name: self.model()
        )
        transformers.AutoTokenizer = types.SimpleNamespace(
            from_pretrained=lambda name: self.tokenizer()
        )
        Conv1D.in_features = property(lambda layer: layer.weight.shape[0])
        Conv1D.out_features = property(lambda layer: layer.weight.shape[1])
        gc.collect = lambda *_: 0  # after each step
        found, AdamW, cross_entropy = (
            self.found,
            transformers.AdamW,
            torch.nn.functional.cross_entropy,
        )

        class Watched(AdamW):
            def step(self, *args):
                found["rates"].append(self.param_groups[0]["lr"])
                return super().step(*args)

        def watched(*args, **kwargs):
            loss = cross_entropy(*args, **kwargs)
            if torch.is_grad_enabled():  # not the language model's
                found["losses"].append(loss.item())
            return loss

        transformers.AdamW, torch.nn.functional.cross_entropy = Watched, watched
        drawn = iter(
            [part for _, rows, columns in self.given["indices"] for part in (columns, rows)]
        )

        def choice(n, size, replace, p):
            found["probabilities"].append(torch.tensor(p))
            chosen = next(drawn)
            assert replace and len(chosen) == size and int(chosen.max()) < n
            return chosen.numpy()

        np.random.choice = choice

    def model(self):
        """The small model, with our weights."""
        config = transformers.AutoConfig.for_model(**self.settings["config"])
        kind = {"mistral": "MistralForCausalLM", "gpt2": "GPT2LMHeadModel"}[config.model_type]
        attention = "sdpa" if config.model_type == "mistral" else "eager"  # the defaults
        model = getattr(transformers, kind)._from_config(config, attn_implementation=attention)
        lacking = model.load_state_dict(
            load_file(self.folder / f"{config.model_type}.safetensors"), strict=False
        )
        assert not lacking.unexpected_keys and set(lacking.missing_keys) <= {"lm_head.weight"}, (
            lacking
        )
        model.tie_weights()
        return model.eval()

    def tokenizer(self):
        text_tokens = self.settings["text_tokens"]

        class Tokenizer(transformers.PreTrainedTokenizerFast):
            model_input_names = ("input_ids", "attention_mask")  # as both models' own have

            def __call__(self, *args, **kwargs):
                if kwargs.get("max_length") == TEXT:
                    kwargs["max_length"] = text_tokens
                return super().__call__(*args, **kwargs)

        file = str(self.folder / self.settings["tokenizer"])
        return Tokenizer(
            tokenizer_file=file, eos_token="</s>", padding_side=self.settings["padding_side"]
        )

    def watch(self, utils):
        """Keep the answers of each evaluation, with adapters and head, and each perplexity."""
        found, argmax = self.found, torch.argmax

        def evaluation(name, theirs):
            def evaluate(model, *args):
                answers = []

                def watched(*given, **options):
                    answers.append(argmax(*given, **options))
                    return answers[-1]

                torch.argmax = watched
                share = theirs(model, *args)
                torch.argmax = argmax
                kept = {
                    n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad
                }
                head = {n: p for n, p in kept.items() if n.startswith("lm_head")}
                adapters = {n: p for n, p in kept.items() if n not in head}
                answers = torch.cat([answer.flatten() for answer in answers]).tolist()
                found["evaluations"].append(
                    {
                        "task": EVALUATIONS[name],
                        "answers": "".join(map(str, answers)),
                        "accuracy": share,
                        "head": list(head.values()),
                        "adapters": list(adapters.values()),
                    }
                )
                return share

            return evaluate

        def perplexity(theirs):
            def calculate(*args, **kwargs):
                found["perplexity"].append(theirs(*args, **kwargs))
                return found["perplexity"][-1]

            return calculate

        for name in EVALUATIONS:
            setattr(utils, name, evaluation(name, getattr(utils, name)))
        utils.calculate_perplexity = perplexity(utils.calculate_perplexity)

    def perform(self):
        """Run the notebook's cells until perplexity is measured for the second time."""
        self.hand_over()
        self.module("curlora")
        lora = self.module("lora")
        drawn, layer = iter(self.given["A"]), lora.LoRALayer

        class Given(layer):
            def __init__(self, *args):
                super().__init__(*args)
                self.A.data.copy_(next(drawn))

        lora.LoRALayer = Given
        self.watch(self.module("utils", max_len=self.settings["max_length"]))
        here = {"__name__": "__main__"}
        for cell in json.loads((self.code / NOTEBOOKS[self.run]).read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                exec(self.source("".join(cell["source"])), here)
            if len(self.found["perplexity"]) == 2:
                break
        torch.save(self.found, self.folder / f"{self.run}.theirs.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    Author(*sys.argv[1:]).perform()
