"""Adapters together with what people use beside them: dtypes, checkpointing, compile, Trainer, …"""

import copy
import subprocess
import sys

import pytest
import tokenizers
import torch
import transformers

from curlora_lite import (
    CURLoRAConfig,
    LoRAConfig,
    adapter_layers,
    add_adapters,
    merge_adapters,
    save_adapter,
)
from curlora_lite.replication import records

IDS = torch.tensor([[1, 5, 9, 3, 7, 2], [2, 2, 8, 60, 4, 11]])
CONFIGS = {"curlora": CURLoRAConfig(rank=4, seed=3), "lora": LoRAConfig(rank=4, seed=3)}


def loss_of(model, ids=IDS):
    return model(input_ids=ids, labels=ids).loss


def started(model, config, scale=0.1):
    """Adapters with seeded values, so that gradients reach every part."""
    add_adapters(model, config)
    generator = torch.Generator().manual_seed(0)
    for _, layer in adapter_layers(model):
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    return model


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", CONFIGS)
def test_half_precision_weights_train_fp32_adapters(llama, method, dtype):
    """Gradients within 5 % of fp32's: two layers' roundings of 8 (11) bits."""
    half = started(copy.deepcopy(llama).to(dtype), CONFIGS[method])
    full = started(llama, CONFIGS[method])
    for model in (half, full):
        loss_of(model).backward()
    found, expected = gradients(half), gradients(full)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert (gradient - expected[name]).norm() < 0.05 * expected[name].norm()


@pytest.mark.parametrize("method", CONFIGS)
def test_checkpointing_gives_the_same_gradients(llama, method):
    model = started(llama, CONFIGS[method]).train()
    loss_of(model).backward()
    expected = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loss_of(model).backward()
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("method", CONFIGS)
def test_compiled_models_train_the_same(llama, method):
    """Through Dynamo and AOTAutograd in one graph; no code generator is needed for that."""
    model = started(llama, CONFIGS[method])
    loss_of(model).backward()
    expected = gradients(model)
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss_of(compiled).backward()
    found = gradients(model)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


DDP = """
import sys, torch
import torch.distributed as dist
import torch.multiprocessing as mp
sys.path.insert(0, sys.argv[1])
from transformers import LlamaConfig, LlamaForCausalLM
from curlora_lite import CURLoRAConfig, add_adapters

def model():
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, vocab_size=64)
    made = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    add_adapters(made, CURLoRAConfig(rank=4))
    return made

def gradients(made, ids):
    made(input_ids=ids, labels=ids).loss.backward()
    return [p.grad for p in made.parameters() if p.requires_grad]

def work(rank, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    ids = torch.arange(24).view(4, 6)
    found = gradients(torch.nn.parallel.DistributedDataParallel(model()), ids[2 * rank :][:2])
    expected = gradients(model(), ids)
    alone = gradients(model(), ids[2 * rank :][:2])
    for a, b, c in zip(found, expected, alone, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm() < (c - b).norm()
    dist.destroy_process_group()

if __name__ == "__main__":
    torch.set_num_threads(1)
    mp.start_processes(work, (sys.argv[2],), nprocs=2, start_method="fork")
    print("equal")
"""


def test_two_processes_give_the_gradients_of_one(tmp_path):
    """DistributedDataParallel on gloo: the mean over both halves is that of the whole batch."""
    (tmp_path / "ddp.py").write_text(DDP)
    command = [sys.executable, tmp_path / "ddp.py", records.ROOT, tmp_path / "store"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]


def test_the_trainer_trains_the_adapter_alone(llama, tmp_path):
    add_adapters(llama, CURLoRAConfig(rank=4))
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    rows = [{"input_ids": row, "labels": row} for row in torch.arange(48).view(8, 6) % 64]
    arguments = transformers.TrainingArguments(
        tmp_path,
        max_steps=4,
        learning_rate=0.1,
        per_device_train_batch_size=4,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
    )
    transformers.Trainer(llama, arguments, train_dataset=rows).train()
    changed = {n for n, value in llama.state_dict().items() if not torch.equal(value, before[n])}
    assert {name.rsplit(".", 1)[-1] for name in changed} == {"U"}
    assert len(changed) == len(list(adapter_layers(llama)))
    save_adapter(llama, tmp_path / "adapter")


def word_tokenizer():
    """One token a word, as a tokenizer that a pipeline can load."""
    words = {"<unk>": 0, "the": 1, "film": 2} | {f"word{i}": i for i in range(3, 64)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def test_a_merged_model_in_a_pipeline(gpt2, tmp_path):
    for parameter in gpt2.parameters():
        parameter.data.mul_(10)  # so that attention matters
    tokenizer = word_tokenizer()
    ids = tokenizer("the film", return_tensors="pt")["input_ids"]
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain = gpt2.generate(ids, **options)[0]
    started(gpt2, CURLoRAConfig(rank=8, target_modules=["c_attn"]), scale=1.0)
    expected = gpt2.generate(ids, **options)[0]
    assert not torch.equal(expected, plain)
    merge_adapters(gpt2)
    gpt2.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pipe = transformers.pipeline("text-generation", str(tmp_path), device="cpu")
    (found,) = pipe("the film", return_tensors=True, **options)
    assert found["generated_token_ids"] == expected.tolist()


def test_packed_weights_are_refused_with_a_reason(llama):
    """As other libraries than bitsandbytes pack one: its rows and columns cannot be indexed."""
    projection = llama.model.layers[0].self_attn.q_proj
    projection.weight = torch.nn.Parameter(torch.zeros(512, 1), requires_grad=False)
    with pytest.raises(TypeError, match=r"packed into \(512, 1\), expected \(32, 32\); quantise"):
        add_adapters(llama, CURLoRAConfig(rank=1))
