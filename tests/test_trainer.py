"""Adapters under the `Trainer`: checkpoints, resumed runs, the README's lines of use."""

import re

import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from small_runs import tiny
from torch import nn

import curlora_lite as cl
from curlora_lite.replication import records

TARGETS = {"bert": ["query"], "gpt2": ["c_attn", "lm_head"], "llama": ["q_proj"], "t5": ["q", "wo"]}
TARGETS["vit"] = ["q_proj"]  # another name in the hub's files
IDS = torch.randint(2, 64, (24, 6), generator=torch.Generator().manual_seed(1))
IDS[:, -1] = 1  # T5 classifies where a text ends


def adapted(name):
    """With an adapter, and by hand: one norm made trainable, the first U frozen as it is."""
    model = tiny(name)
    targets = TARGETS[model.config.model_type]
    cl.add_adapters(model, cl.CURLoRAConfig(rank=4, target_modules=targets))
    norm = next(n for n, _ in model.named_parameters() if "norm" in n.lower() or ".ln_" in n)
    model.get_parameter(norm).requires_grad_(True)
    nn.init.ones_(next(cl.adapter_layers(model))[1].U.requires_grad_(False))
    return model, norm


def train(model, folder, resume=None):
    """Six steps, a checkpoint after every third."""
    given = given_to(model)
    labels = IDS if "LM" in str(type(model)) else IDS[:, 0] % 2
    rows = [{given[0]: x, "labels": y} for x, y in zip(given[1], labels, strict=True)]
    arguments = hf.TrainingArguments(folder, save_steps=3, max_steps=6, learning_rate=0.05)
    trainer = hf.Trainer(model, arguments, None, rows, callbacks=[cl.AdapterCheckpoints()])
    trainer.train(resume_from_checkpoint=resume)
    model.eval()


def given_to(model):
    """The name of what it reads, and of that one a row."""
    images = (IDS[:, :1, None, None] / 64).expand(-1, 1, 4, 4)
    name = model.main_input_name
    return name, images if name == "pixel_values" else IDS


def logits(model):
    name, rows = given_to(model)
    with torch.no_grad():
        return model(**{name: rows[:4]})[0]


CLASSIFIERS = [f"{name}ForSequenceClassification" for name in ("Bert", "Llama", "T5")]
CLASSIFIERS.append("ViTForImageClassification")


@pytest.mark.parametrize("name", [*CLASSIFIERS, "GPT2LMHeadModel"])
def test_a_run_resumed_from_an_adapters_checkpoint_ends_on_the_same_numbers(name, tmp_path, caplog):
    """With dropout; a checkpoint holds what is trained alone, a merged model is saved whole."""
    (whole, norm), (again, _) = adapted(name), adapted(name)
    with pytest.warns(UserWarning, match=f"not saved with it: {norm}"):
        train(whole, tmp_path)
    kept = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    trainable = {n for n, p in whole.named_parameters() if p.requires_grad or n.endswith(".U")}
    assert {n for n in kept if not n.endswith(("rows", "cols"))} == trainable
    train(again, tmp_path / "again", tmp_path / "checkpoint-3")
    found = again.state_dict()
    assert all(torch.equal(value, found[n]) for n, value in whole.state_dict().items())
    assert "missing keys" not in caplog.text and not torch.equal(kept[norm], found[norm])
    other = tiny(name)
    cl.load_adapter(other, tmp_path / "checkpoint-6")
    other.get_parameter(norm).data = whole.get_parameter(norm).data
    assert torch.equal(logits(other), logits(whole))
    if name in CLASSIFIERS:  # the tied head of the other cannot be merged
        cl.merge_adapters(whole)
        whole.save_pretrained(save_directory=tmp_path)
        assert torch.equal(logits(type(whole).from_pretrained(tmp_path).eval()), logits(whole))


def test_a_save_pretrained_of_somebodys_own_is_left_alone():
    model = adapted(CLASSIFIERS[1])[0]
    model.save_pretrained = own = lambda *given: None
    cl.AdapterCheckpoints().on_train_begin(None, None, None, model)
    assert model.save_pretrained is own


def test_the_lines_of_use_in_the_readme_run(tmp_path, monkeypatch):
    """As they stand there, on a tiny model."""
    block, *_ = re.findall(r"```python\n(.*?)```", (records.ROOT / "README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    tiny("LlamaForSequenceClassification").save_pretrained("base")
    values = {"rows": [{"input_ids": row, "labels": row[0] % 2} for row in IDS], "name": "base"}
    exec(block, values)
    trained, again = values["model"].eval(), values["again"].eval()
    base = type(trained).from_pretrained("base").eval()
    served = peft.AutoPeftModelForSequenceClassification.from_pretrained("task-1-lora").eval()
    for other in (trained, served):
        off = (logits(other) - logits(again)).norm()
        assert off < 1e-3 * (logits(again) - logits(base)).norm()
