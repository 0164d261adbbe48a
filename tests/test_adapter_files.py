"""An adapter's life: saved, loaded, merged, switched, exported; on tiny models."""

import copy
import json
import warnings
from functools import partial

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from small_runs import logits, moved
from transformers import AutoModelForCausalLM

import curlora_lite as cl

TARGETS = {"llama": ["q_proj", "k_proj", "v_proj"], "gpt2": ["c_attn"]}
CONFIGS = {  # of targets
    "curlora": partial(cl.CURLoRAConfig, 4, 1.7),
    # drawn with replacement: at this rank some indices stand twice
    "curlora, repeated": partial(cl.CURLoRAConfig, 16, 0.6, selection="authors"),
    "lora": partial(cl.LoRAConfig, 4, 1.7),
}


@pytest.fixture(params=["llama", "gpt2"])
def model(request):
    """Four times the usual weights: in so small a model attention hardly matters otherwise."""
    made = request.getfixturevalue(request.param)
    for parameter in made.parameters():
        parameter.data.mul_(4)
    return made


def trained(model, config="curlora", name="default", seed=0):
    targets = TARGETS[model.config.model_type]
    cl.add_adapters(model, CONFIGS[config](targets), name)
    return moved(model, seed=seed)


@pytest.mark.parametrize("config", CONFIGS)
def test_loaded_is_saved_bit_for_bit(model, config, tmp_path):
    other = copy.deepcopy(model)
    base = logits(model)
    trained(model, config)
    written = cl.save_adapter(model, tmp_path / "adapter")
    assert written == sum(f.stat().st_size for f in (tmp_path / "adapter").iterdir())
    wrapped = cl.load_adapter(other, tmp_path / "adapter")
    assert wrapped == [name for name, _ in cl.adapter_layers(model)]
    assert torch.equal(logits(other), logits(model)) and not torch.equal(logits(other), base)
    assert cl.count_trainable(other) == cl.count_trainable(model)
    one, two = model.state_dict(), other.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_it_takes_on_disk_for_mistral(llama, tmp_path):
    """Its 32 layers of narrow projections: U and two times 16 indices of 96 are 111 KB, names and
    checks of weights 16."""
    llama.config.num_hidden_layers = 32
    model = AutoModelForCausalLM.from_config(llama.config)
    assert len(cl.add_adapters(model, cl.CURLoRAConfig(rank=16))) == 96
    assert 96 * (16 * 16 + 2 * 16) * 4 < cl.save_adapter(model, tmp_path) < 128_500


def described(change):
    """Spoils the description by a function of it."""

    def spoil(model, folder):
        description = json.loads((folder / "adapter.json").read_text())
        change(description)
        (folder / "adapter.json").write_text(json.dumps(description))

    return spoil


def configured(**values):
    return described(lambda description: description["config"].update(values))


def tensors(change):
    """Spoils the tensors, {name -> tensor}, by a function of them."""

    def spoil(model, folder):
        found = load_file(folder / "adapter.safetensors")
        save_file(change(found) or found, folder / "adapter.safetensors")

    return spoil


def first(key, value):
    return tensors(lambda found: found[key].view(-1)[:1].fill_(value) and None)


def written(name, content):
    return lambda model, folder: (folder / name).write_text(content)


def gone(name):
    return lambda model, folder: (folder / name).unlink()


def other_column(model, folder):
    """One number of the frozen weight, in a chosen column and in no chosen row."""
    found = load_file(folder / "adapter.safetensors")
    rows, column = set(found["rows"][0].tolist()), int(found["cols"][0, 0])
    row = next(i for i in range(32) if i not in rows)
    model.model.layers[0].self_attn.q_proj.weight.data[row, column] += 1


def truncated(model, folder):
    file = folder / "adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def inside(model, folder):
    """A base inside an adapter that the model wears already."""
    cl.add_adapters(model, cl.LoRAConfig(rank=2), "worn")
    described(
        lambda d: d.update(projections={f"{p}.base": v for p, v in d["projections"].items()})
    )(model, folder)


# what is wrong -> (does it, what is said); q_proj is 32 to 32
BROKEN = {
    "another column": (other_column, "is not the one this adapter was trained on"),
    "other shape": (configured(rank=3), r"(U|rows) is \(4.*expected \(3"),
    "other projection": (
        described(lambda d: d["projections"].update({"../../etc/passwd": "0"})),
        "has no projection '../../etc/passwd'",
    ),
    "truncated": (truncated, "not a whole safetensors file"),
    "no tensors": (gone("adapter.safetensors"), "adapter.safetensors: there is no such file"),
    "no description": (gone("adapter.json"), "adapter.json: there is no such file"),
    "not json": (written("adapter.json", "{"), "not a whole JSON file"),
    "deep json": (written("adapter.json", "[" * 100_000), "not a whole JSON file"),
    "other format": (described(lambda d: d.update(format="x")), "not a description of an adapter"),
    "other kind": (described(lambda d: d.update(kind="dora")), "`kind`, one of curlora, lora"),
    "kind a list": (described(lambda d: d.update(kind=[])), "expected `kind`"),
    "unknown field": (configured(colour="red"), "its `config` is not one of an adapter.*colour"),
    "huge rank": (configured(rank=10**6), "rank 1000000, expected at most 32"),
    "alpha not finite": (configured(alpha=float("nan")), "alpha: got nan, expected a finite"),
    "out of range": (first("rows", 32), "rows of .* to 32, expected within 0 to 31"),
    "negative": (first("cols", -1), "cols of .* from -1 to"),
    "not finite": (first("U", float("nan")), "holds numbers that are not finite"),
    "one number": (tensors(lambda found: {**found, "U": torch.ones(())}), r"U is \(\), expected"),
    "one row": (tensors(lambda found: {**found, "rows": torch.ones(())}), "rows is nothing"),
    "twice as many": (
        tensors(lambda found: {k: torch.cat([t, t]) for k, t in found.items()}),
        r"U is \(12, 4, 4\), expected one for 6 projections",
    ),
    "a base inside an adapter": (inside, r"has no projection '.*q_proj.base'"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_folders_are_refused_and_change_nothing(llama, tmp_path, broken):
    spoil, message = BROKEN[broken]
    other = copy.deepcopy(llama)
    cl.save_adapter(trained(llama), tmp_path)
    spoil(other, tmp_path)
    before, state = logits(other), other.state_dict().keys()
    trainable = cl.count_trainable(other)
    with pytest.raises(cl.AdapterFileError, match=message):
        cl.load_adapter(other, tmp_path)
    assert torch.equal(logits(other), before) and other.state_dict().keys() == state
    assert cl.adapter_names(other) in ([], ["worn"]) and cl.count_trainable(other) == trainable > 0


def test_a_mixture_of_two_saves_is_refused(llama, tmp_path):
    """Killed between its two files: new numbers, the old alpha."""
    other = copy.deepcopy(llama)
    cl.save_adapter(trained(llama), tmp_path)
    before = (tmp_path / "adapter.json").read_text()
    with torch.no_grad():
        for _, layer in cl.adapter_layers(llama):
            layer.U.mul_(2)
    cl.save_adapter(llama, tmp_path)
    (tmp_path / "adapter.json").write_text(before)
    with pytest.raises(cl.AdapterFileError, match="not the one saved with adapter.json"):
        cl.load_adapter(other, tmp_path)
    assert cl.adapter_names(other) == []
    description = json.loads(before)
    del description["tensors_sha256"]  # as older versions wrote it: cannot be told
    (tmp_path / "adapter.json").write_text(json.dumps(description))
    cl.load_adapter(other, tmp_path)


@pytest.mark.parametrize("config", CONFIGS)
def test_merged_is_a_plain_model_and_unmerging_restores_the_bits(model, config, tmp_path):
    base = {k: v.clone() for k, v in model.state_dict().items()}
    names = set(dict(model.named_modules()))
    plain = logits(model)
    adapted = logits(trained(model, config))
    assert (adapted - plain).norm() > 0.1 * plain.norm()
    wrapped = [name for name, _ in cl.adapter_layers(model)]
    assert cl.merge_adapters(model) == wrapped
    assert set(dict(model.named_modules())) == names
    # one rounding of each weight to fp32 against two summed outputs
    assert (logits(model) - adapted).norm() < 1e-4 * plain.norm()
    model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(plain), logits(model))
    for does in (cl.merge_adapters, cl.save_adapter, cl.export_to_peft):  # read other weights
        given = [] if does is cl.merge_adapters else [tmp_path]
        with pytest.raises(ValueError, match="its adapter is merged; call unmerge_adapters first"):
            does(model, *given)
    assert cl.unmerge_adapters(model) == wrapped
    assert torch.equal(logits(model), adapted)
    cl.merge_adapters(model)
    cl.remove_adapters(model)
    assert all(torch.equal(v, base[k]) for k, v in model.state_dict().items())


def test_removing_leaves_other_adapters_as_they_are(llama):
    trained(llama, "curlora", "one")
    trained(llama, "curlora", "two", seed=2)
    cl.merge_adapters(llama)
    merged = logits(llama)
    with pytest.raises(ValueError, match="name: got 'tow'"):
        cl.remove_adapters(llama, "tow")
    cl.remove_adapters(llama, "one")
    assert torch.equal(logits(llama), merged) and cl.adapter_names(llama) == ["two"]
    cl.unmerge_adapters(llama)
    with cl.disable_adapters(llama):
        cl.remove_adapters(llama)
    assert cl.active_adapter(llama) is None and not cl.adapter_names(llama)
    with pytest.raises(ValueError, match="name: got None; adapters on this model: none"):
        cl.merge_adapters(llama)
    with pytest.raises(ValueError, match="no adapter is merged"):
        cl.unmerge_adapters(llama)


@pytest.mark.parametrize("config", CONFIGS)
def test_peft_gives_the_same_logits(model, config, tmp_path):
    """To fp32 rounding of an update that moves them by a tenth of their size, at the least."""
    base, plain = copy.deepcopy(model), logits(model)
    trained(model, config)
    if config == "curlora, repeated":
        layer = next(layer for _, layer in cl.adapter_layers(model))
        assert len(set(layer.rows.tolist())) < 16
    cl.export_to_peft(model, tmp_path)
    served = PeftModel.from_pretrained(base, tmp_path).eval()
    off = (logits(served) - logits(model)).norm() / plain.norm()
    with served.disable_adapter():
        other = (logits(served) - logits(model)).norm() / plain.norm()
    assert off < 1e-4 and other > 0.1


def test_the_checksum_of_loras_base_is_of_r_rows_and_columns():
    layer = cl.layers.LoRALinear(torch.nn.Linear(8, 8), 2, 1.0, generator=torch.Generator())
    before = cl.base_check.checksum(layer)
    layer.base.weight.data[1, 3] += 1  # 0 and 4 are read
    assert cl.base_check.checksum(layer) == before
    layer.base.weight.data[1, 4] += 1
    assert cl.base_check.checksum(layer) != before
    assert len(cl.base_check.checksums({"": layer}, torch.float32)) == 16  # as in older files


def test_several_adapters_one_active(model):
    base = logits(model)
    trained(model, "curlora", "one", seed=1)
    one = logits(model)
    trained(model, "curlora", "two", seed=2)
    trained(model, "lora", "three", seed=3)
    three = logits(model)
    assert (*cl.adapter_names(model), cl.active_adapter(model)) == ("one", "two", "three", "three")
    cl.set_adapter(model, "one")
    assert torch.equal(logits(model), one)
    assert cl.count_trainable(model) == len(list(cl.adapter_layers(model))) * 16
    with cl.disable_adapters(model):
        assert torch.equal(logits(model), base) and cl.active_adapter(model) is None
    assert torch.equal(logits(model), one)
    cl.set_adapter(model, "three")
    assert torch.equal(logits(model), three)
    cl.remove_adapters(model, "two")
    assert torch.equal(logits(model), three) and cl.adapter_names(model) == ["one", "three"]
    cl.remove_adapters(model, "three")
    assert torch.equal(logits(model), base) and cl.active_adapter(model) is None
    cl.set_adapter(model, "one")
    assert torch.equal(logits(model), one)
    with pytest.raises(ValueError, match="name: got 'two', expected one of one"):
        cl.set_adapter(model, "two")
    with pytest.raises(ValueError, match="has an adapter 'one' already"):
        trained(model, "lora", "one")


def test_what_was_frozen_beside_an_adapter_has_to_be_there_when_it_is_loaded(llama, tmp_path):
    """The least change of another weight, an earlier adapter in one: neither is saved with it."""
    first, change = copy.deepcopy(llama), copy.deepcopy(llama)
    cl.add_adapters(llama, cl.CURLoRAConfig(rank=4, target_modules=["up_proj"]))
    moved(llama)
    cl.fold_adapter(llama)
    folded, finer = copy.deepcopy(llama), copy.deepcopy(llama).double()
    change.load_state_dict(llama.state_dict())
    change.lm_head.weight.data[-1, -1] *= 1 + 1e-6
    trained(llama, name="gone")
    cl.remove_adapters(llama)
    trained(llama)
    cl.save_adapter(llama, tmp_path)
    with pytest.warns(UserWarning, match="earlier adapter was folded into its weights"):
        cl.export_to_peft(llama, tmp_path / "peft")
    exported = (tmp_path / "peft" / "adapter_config.json").read_text()
    assert json.loads(exported)["base_model_name_or_path"] is None
    cl.add_adapters(first, cl.CURLoRAConfig(rank=4, target_modules=["up_proj"]), "other")
    for model, named in ((first, "layers.0.mlp.up_proj"), (change, "lm_head")):
        with pytest.raises(cl.AdapterFileError, match=f"{named}.weight was another when"):
            cl.load_adapter(model, tmp_path, check_base="exact")
        with pytest.warns(UserWarning, match=f"{named}.weight was another when"):
            cl.load_adapter(model, tmp_path)
        with warnings.catch_warnings(action="error"):
            cl.load_adapter(model, tmp_path, "shapes", check_base="shapes")
    for model in (finer, copy.deepcopy(folded).bfloat16()):
        with pytest.warns(UserWarning, match="in another precision"):
            cl.load_adapter(model, tmp_path)
    part = copy.deepcopy(folded)
    part.lm_head.bfloat16()
    with pytest.raises(cl.AdapterFileError, match="lm_head.weight was another when"):
        cl.load_adapter(part, tmp_path, check_base="exact")
    with warnings.catch_warnings(action="error"):
        cl.load_adapter(part, tmp_path)
    cl.load_adapter(folded, tmp_path, check_base="exact")
    assert torch.equal(logits(folded), logits(llama))
    for name, damaged in enumerate((None, [], "x", 10**400)):
        spoil = described(lambda d, value=damaged: d["frozen"].update({"lm_head.weight": value}))
        spoil(folded, tmp_path)
        with pytest.warns(UserWarning, match="lm_head.weight was another when"):
            cl.load_adapter(folded, tmp_path, str(name))


def test_equal_indices_share_what_is_derived_from_the_weight(llama):
    trained(llama, "curlora", "one")
    one = dict(cl.adapter_layers(llama))
    trained(llama, "curlora", "two")
    two = dict(cl.adapter_layers(llama))
    assert all(two[n].basis is one[n].basis and two[n].U is not one[n].U for n in one)
    cl.add_adapters(llama, cl.CURLoRAConfig(rank=4, seed=9), "three")
    assert all(layer.basis is not one[n].basis for n, layer in cl.adapter_layers(llama))


def test_a_copy_is_its_own(llama):
    trained(llama, "curlora", "one")
    trained(llama, "curlora", "two", seed=1)
    twin = copy.deepcopy(llama)
    before = logits(twin)
    moved(llama, seed=7)
    assert torch.equal(logits(twin), before) and not torch.equal(logits(llama), before)
    cl.set_adapter(twin, "one")
    cl.set_adapter(llama, "one")
    assert torch.equal(logits(twin), logits(llama))
