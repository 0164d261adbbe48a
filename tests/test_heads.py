"""Heads, wrapped models, folding, export: what somebody's own training script leans on."""

import copy
import json
import warnings

import peft
import pytest
import torch
from accelerate import cpu_offload
from safetensors.torch import load_file, save_file
from small_runs import close, moved, tiny
from torch import distributed, nn

import curlora_lite as cl

IDS = torch.tensor([[5, 5, 9, 3, 7, 1], [2, 2, 8, 60, 4, 1]])
TARGETS = r".*\.(q_proj|c_attn|q|wo|x_proj|query|q_lin|dense)"
GPT2, LM = "GPT2ForSequenceClassification", ["GPT2LMHeadModel", "T5ForConditionalGeneration"]
# class, PEFT's task_type, its head
HEADS = """
LlamaForSequenceClassification SEQ_CLS score
GPT2ForTokenClassification TOKEN_CLS classifier
BertForQuestionAnswering QUESTION_ANS qa_outputs
RobertaForSequenceClassification SEQ_CLS classifier
DistilBertForSequenceClassification SEQ_CLS classifier pre_classifier
T5ForSequenceClassification SEQ_CLS classification_head
T5ForConditionalGeneration SEQ_2_SEQ_LM
MambaForCausalLM CAUSAL_LM
BertModel FEATURE_EXTRACTION
"""


def config(**values):
    return cl.CURLoRAConfig(**{"rank": 2, "alpha": 4, "target_modules": TARGETS} | values)


def trained(model, name="default", seed=0, **values):
    """With an adapter of which every number has moved."""
    cl.add_adapters(model, config(**values), name)
    return moved(model, seed=seed)


def answer(model):
    decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    with torch.no_grad():
        return model(input_ids=IDS, **{"decoder_input_ids": IDS} if decoder else {})[0]


def beside_u(model):
    """Names of what is trainable other than U, as in the model without adapters."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    return {n.replace(".base.", ".") for n in names if not n.endswith(".U")}


@pytest.mark.parametrize("row", HEADS.split("\n")[1:-1])
def test_a_head_belongs_to_its_adapter(row, tmp_path):
    """Trained, switched, saved, exported, merged, taken off with it; each adapter has its own."""
    name, task, *heads = row.split()
    model, fresh = tiny(name), tiny(name)
    for head in heads:  # new when it is loaded, another one in each process
        for parameter in fresh.get_submodule(head).parameters():
            parameter.data.normal_()
    model.save_pretrained(tmp_path / "base")
    model.config._name_or_path = str(tmp_path / "base")
    model.requires_grad_(False)  # torch takes other kernels for what is trained
    base, keys = answer(model), list(model.state_dict())
    one, two = answer(trained(model, "one")), answer(trained(model, "two", seed=2))
    assert beside_u(model) == {n for n in keys if n.split(".")[0] in heads}
    cl.set_adapter(model, "one")
    assert torch.equal(answer(model), one) and not close(one, base) and not close(one, two)
    with cl.disable_adapters(model):
        assert torch.equal(answer(model), base)
    cl.save_adapter(model, tmp_path / "two", "two")
    cl.load_adapter(fresh, tmp_path / "two")
    assert torch.equal(answer(fresh), two) and beside_u(fresh) == beside_u(model)
    cl.export_to_peft(model, tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["fan_in_fan_out"] == ("GPT2" in name)
    auto = getattr(peft, f"Auto{peft.MODEL_TYPE_TO_PEFT_MODEL_MAPPING[task].__name__}")
    assert close(answer(auto.from_pretrained(tmp_path).eval()), one)
    cl.merge_adapters(model, "two")
    assert close(answer(model), two) and list(model.state_dict()) == keys
    cl.remove_adapters(model)
    assert torch.equal(answer(model), base) and not beside_u(model)


ASKED = {
    "out_proj": {"classifier.out_proj"},  # a part of the head: that part
    "layer.1.output.LayerNorm": {"roberta.encoder.layer.1.output.LayerNorm", "classifier"},
    "classifier classifier.dense": {"classifier"},
    "": set(),
}


@pytest.mark.parametrize("asked", ASKED)
def test_modules_to_save_are_trained_whole_and_not_wrapped(asked):
    model, expected = tiny("RobertaForSequenceClassification"), ASKED[asked]
    there = list(model.state_dict())
    values = {"modules_to_save": asked.split(), "target_modules": "all-linear"}
    assert not any("classifier" in n for n in cl.add_adapters(model, config(**values)))
    assert beside_u(model) == {n for n in there if n.startswith(tuple(f"{e}." for e in expected))}


def test_names_that_match_nothing_are_refused():
    model = tiny(GPT2)
    for values, message in (
        ({"modules_to_save": ["scores"]}, "'scores' matches no module .*: score"),
        ({"target_modules": ["score"]}, "trained whole, as modules_to_save: score"),
        ({"target_modules": "c_attn"}, "'c_attn' matches no .* string is a regular expression"),
        ({"target_modules": ["c_fc", "attn"]}, "'attn' matches no .*: c_attn, c_fc, c_proj;"),
    ):
        with pytest.raises(ValueError, match=message):
            cl.add_adapters(model, config(**values))
        assert beside_u(model) == set(model.state_dict()) and not cl.adapter_names(model)
    odd = type("OddForSequenceClassification", (nn.ModuleDict,), {})({"q_proj": nn.Linear(4, 4)})
    with pytest.warns(UserWarning, match="has no head that is known as such"):
        cl.add_adapters(odd, cl.CURLoRAConfig(rank=2, target_modules=["q_proj"]))


def test_what_is_trained_by_hand_stays_so_and_is_named_when_it_is_not_saved(tmp_path):
    model = trained(tiny("BertForTokenClassification"), "one")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name.endswith("bias"))
    by_hand = beside_u(model)  # biases of wrapped projections too
    trained(model, "two", target_modules=["key"])
    assert beside_u(model) == by_hand
    with pytest.warns(UserWarning, match="not saved with it: bert.embeddings.LayerNorm.bias,"):
        cl.save_adapter(model, tmp_path)
    cl.remove_adapters(model, "one")
    cl.fold_adapter(model)
    cl.add_adapters(model, config())  # the next task's
    assert beside_u(model) == by_hand


@pytest.mark.parametrize("name", LM)
def test_a_wrapped_tied_head_is_saved_once_with_the_whole_model(name, tmp_path):
    one, two = tiny(name), trained(tiny(name), target_modules=["lm_head"])
    for parameter in one.parameters():
        parameter.data += 0.1
    trained(one, seed=1, target_modules=["lm_head"])
    with pytest.warns(UserWarning, match="from_pretrained would not find .* call merge_adapters"):
        one.save_pretrained(tmp_path)
    missing, _ = two.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert "lm_head.base.weight" in missing and torch.equal(answer(one), answer(two))


@pytest.mark.parametrize("name", [*LM, "MambaForCausalLM"])
def test_a_tied_head_takes_the_embedding_along(name, tmp_path):
    """As one weight: tying again, saving the merged model and a larger vocabulary keep it whole."""
    model, other, base = tiny(name), tiny(name), answer(tiny(name))
    found = answer(trained(model, modules_to_save=["lm_head"]))
    model.tie_weights()
    cl.save_adapter(model, tmp_path / "own")
    cl.load_adapter(other, tmp_path / "own")
    assert torch.equal(answer(model), found) and torch.equal(answer(other), found)
    cl.export_to_peft(model, tmp_path / "peft")
    served = peft.PeftModel.from_pretrained(tiny(name), tmp_path / "peft").eval()
    cl.merge_adapters(model)
    model.save_pretrained(tmp_path)
    assert close(answer(type(model).from_pretrained(tmp_path).eval()), found)
    assert close(answer(served), found) and len(beside_u(model)) == 1
    cl.unmerge_adapters(model)
    model.resize_token_embeddings(70)
    assert close(answer(model)[..., :64], found) and answer(model).shape[-1] == 70
    with cl.disable_adapters(model):
        assert close(answer(model)[..., :64], base) and answer(model).shape[-1] == 70


def test_heads_go_with_the_mode_of_the_model(tmp_path):
    model = trained(tiny("RobertaForSequenceClassification").train()).eval()
    with cl.disable_adapters(model):
        assert not any(module.training for module in model.modules())
        model.train()
    assert all(module.training for module in model.modules())
    cl.remove_adapters(model.eval())
    assert not any(module.training for module in model.modules())
    with warnings.catch_warnings(action="error"):  # a plain model again
        model.save_pretrained(tmp_path)


def test_a_head_saved_while_another_adapter_stands_is_no_frozen_parameter(tmp_path):
    model, again = trained(trained(tiny(GPT2), "one"), "two", modules_to_save=[]), tiny(GPT2)
    again.score.weight.data.normal_()
    cl.save_adapter(model, tmp_path, "one")
    cl.set_adapter(model, "one")
    with warnings.catch_warnings(action="error"):
        cl.load_adapter(again, tmp_path, check_base="exact")
    assert torch.equal(answer(again), answer(model))


def test_a_merge_within_a_block_without_adapters_lasts():
    expected = answer(model := trained(tiny(GPT2)))
    with cl.disable_adapters(model):
        cl.merge_adapters(model, "default")
    assert close(answer(model), expected) and not close(expected, answer(tiny(GPT2)))


def test_a_switch_that_is_refused_moves_nothing(llama):
    trained(llama, "one", target_modules=["lm_head", "q_proj"], modules_to_save=["model.norm"])
    trained(llama, "two", target_modules=["q_proj"])
    llama.lm_head = nn.Linear(32, 3, bias=False)
    two = answer(llama)
    with pytest.raises(ValueError, match=r"its weight is now \(3, 32\)"):
        cl.set_adapter(llama, "one")
    assert cl.active_adapter(llama) == "two" and torch.equal(answer(llama), two)


def test_a_model_with_adapters_of_pefts_is_refused(llama):
    theirs = peft.get_peft_model(llama, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="model: has adapters of PEFT's; merge or unload"):
        cl.add_adapters(theirs, config())


def test_one_weight_under_two_projections_is_not_merged(llama):
    one, two = (layer.self_attn for layer in llama.model.layers)
    two.q_proj.weight = one.q_proj.weight
    trained(llama, target_modules=["q_proj"])
    before = one.q_proj.base.weight.clone()
    with pytest.raises(ValueError, match=r"is tied: \S+0.self_attn.q_proj\S+ \S+1.self_attn.q_p"):
        cl.merge_adapters(llama)
    assert torch.equal(before, two.q_proj.base.weight) and two.q_proj.U.any()


def test_a_head_follows_the_model_and_is_refused_where_it_does_not_fit(tmp_path):
    model = trained(trained(tiny(GPT2), "one"), "two", seed=2).bfloat16()
    cl.set_adapter(model, "one")
    assert answer(model).dtype == model.score.weight.dtype == torch.bfloat16
    cl.save_adapter(model, tmp_path)
    half, full, other = tiny(GPT2).bfloat16(), tiny(GPT2), tiny(GPT2, num_labels=5)
    cl.load_adapter(half, tmp_path)
    cl.load_adapter(full, tmp_path)
    assert torch.equal(answer(half), answer(model))
    assert torch.equal(full.score.weight, model.score.weight.float())
    full.score.weight.data += 1e-3
    cl.save_adapter(full, tmp_path / "full")
    with pytest.warns(UserWarning, match="score.weight: saved in torch.float32, and rounded to"):
        cl.load_adapter(tiny(GPT2).bfloat16(), tmp_path / "full")
    full.score = replaced = copy.deepcopy(full.score)
    with cl.disable_adapters(full):
        assert full.score is not replaced
    assert full.score is replaced
    with pytest.raises(cl.AdapterFileError, match=r"score.weight is \(2, 32\).*expected \(5, 32\)"):
        cl.load_adapter(other, tmp_path)
    assert not cl.adapter_names(other) and beside_u(other) == set(other.state_dict())
    spoilt = load_file(tmp_path / "adapter.safetensors")
    spoilt["score.weight"][0, 0] = torch.nan
    save_file(spoilt, tmp_path / "adapter.safetensors")
    with pytest.raises(cl.AdapterFileError, match="score.weight holds numbers that are not finite"):
        cl.load_adapter(tiny(GPT2), tmp_path)
    model.score.weight.data[0, 0] = torch.inf
    for does, given in ((cl.save_adapter, [tmp_path]), (cl.merge_adapters, [])):
        with pytest.raises(ValueError, match="score.weight holds numbers that are not finite"):
            does(model, *given)
    cl.remove_adapters(model)
    assert answer(model).dtype == torch.bfloat16


def test_a_head_kept_elsewhere_is_here_while_it_is_trained():
    model, base = cpu_offload(tiny(GPT2), execution_device="cpu"), answer(tiny(GPT2))
    assert close(answer(trained(model)), answer(trained(tiny(GPT2))))
    with cl.disable_adapters(model):
        assert close(answer(model), base) and model.score.weight.is_meta


@pytest.mark.parametrize("wrap", ["compiled within", "DDP", "compiled DataParallel"])
def test_every_function_takes_a_wrapped_model(wrap, tmp_path):
    """And no name in a file carries the wrapper's. The model alone is the oracle."""
    plain, model = tiny(GPT2), tiny(GPT2)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        if wrap == "DDP":
            model = nn.parallel.DistributedDataParallel(model)
        elif wrap == "compiled within":
            model.transformer.h[0] = torch.compile(model.transformer.h[0], backend="eager")
            model.score = torch.compile(model.score, backend="eager")
        else:
            model = torch.compile(nn.DataParallel(model), backend="eager")
        base = answer(model)
        for one in (trained(plain), trained(model)):
            cl.save_adapter(one, tmp_path / str(one is plain))
            cl.export_to_peft(one, tmp_path / str(one is plain))
        for file in ("adapter.safetensors", "adapter_model.safetensors"):
            ours, theirs = (load_file(tmp_path / str(of) / file) for of in (True, False))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        expected = answer(plain)
        cl.load_adapter(model, tmp_path / "True", "again")
        assert close(answer(model), expected) and cl.active_adapter(model) == "again"
        with cl.disable_adapters(model):
            assert close(answer(model), base)
        cl.merge_adapters(model, "default")
        assert close(answer(model), expected) and cl.unmerge_adapters(model)
        cl.remove_adapters(model, "again")
        assert cl.fold_adapter(model) and close(answer(model), expected)
    finally:
        distributed.destroy_process_group()


def vision():
    """A convolution and a projection of one name, and a projection whose name ends both."""
    inner = [nn.ModuleDict({"proj": part}) for part in (nn.Conv2d(3, 8, 2), nn.Linear(8, 8))]
    return nn.ModuleDict({"patch": inner[0], "attn": inner[1], "proj": nn.Linear(8, 8)})


PATTERN = r".*\.1\..*(q_proj|c_fc|EncDecAttention\.k)"
CHOSEN = [(name, targets) for name in LM for targets in (PATTERN, "All-linear")]
CHOSEN += [("LlamaForCausalLM", "all-linear"), (None, "proj"), (None, r"attn\.proj")]


@pytest.mark.parametrize(("name", "targets"), CHOSEN)
def test_targets_are_those_of_peft_and_so_are_exported_ones(name, targets, tmp_path):
    def of_peft(served):
        found = [n.removeprefix("base_model.model.") for n, _ in served.named_modules()]
        return {n.removesuffix(".lora_A") for n in found if n.endswith(".lora_A")}

    model, one, two = (tiny(name) if name else vision() for _ in range(3))
    ours = set(cl.add_adapters(model, cl.CURLoRAConfig(rank=2, target_modules=targets)))
    cl.export_to_peft(model, tmp_path)
    assert ours and "lm_head" not in ours
    assert ours == of_peft(peft.get_peft_model(one, peft.LoraConfig(target_modules=targets)))
    assert ours == of_peft(peft.PeftModel.from_pretrained(two, tmp_path))


def test_folding_leaves_the_task_in_the_weights_and_the_next_begins_from_there():
    model, merged = trained(tiny(GPT2)), trained(tiny(GPT2))
    cl.merge_adapters(merged)
    weights = {n: value.clone() for n, value in merged.state_dict().items()}
    for folded in (model, merged):
        assert cl.fold_adapter(folded) == [f"transformer.h.{i}.attn.c_attn" for i in range(2)]
        assert folded.state_dict().keys() == weights.keys() and cl.count_trainable(folded) == 0
        assert all(torch.equal(value, weights[n]) for n, value in folded.state_dict().items())
    first = answer(model)
    cl.add_adapters(model, config(seed=1))
    assert torch.equal(answer(model), first)  # its head begins as the first task's
    second = answer(trained(model, "second", seed=2))
    with pytest.raises(ValueError, match="it has other adapters, default"):
        cl.fold_adapter(model)
    assert torch.equal(answer(model), second)
    cl.remove_adapters(model)
    assert all(torch.equal(value, weights[n]) for n, value in model.state_dict().items())


def test_one_added_to_a_merged_model_stands_on_what_came_out(tmp_path):
    """With a warning: the first is then in the weights for good. Loading does the same."""
    model, again, other = trained(tiny(GPT2)), trained(tiny(GPT2)), trained(tiny(GPT2), "one")
    for one in (model, again, trained(other)):
        cl.merge_adapters(one)
    merged = answer(model)
    for one, values, message in ((model, {"rank": 99}, "got 99"), (other, {}, "adapters, one")):
        with pytest.raises(ValueError, match=message):
            cl.add_adapters(one, config(**values), "second")
        assert cl.active_adapter(one) == "default"
    with pytest.warns(UserWarning, match="'default' is merged, and stays in the weights for good"):
        cl.save_adapter(trained(model, "second", seed=2), tmp_path)
    with pytest.warns(UserWarning, match="'default' is merged") as told:
        cl.load_adapter(again, tmp_path, check_base="exact")
    assert told[0].filename == __file__  # where it was called
    assert torch.equal(answer(again), answer(model)) and not close(answer(model), merged)
    cl.remove_adapters(again)
    assert torch.equal(answer(again), merged)


def test_a_classifier_is_told_that_its_head_is_not_in_the_file(tmp_path):
    """As files of older versions, and of language models, have none."""
    model, other = tiny("LlamaForCausalLM"), tiny("LlamaForSequenceClassification")
    other.model.load_state_dict(model.model.state_dict())
    cl.save_adapter(trained(model), tmp_path)
    with pytest.warns(UserWarning, match="saved without score, the head of this LlamaForSequenceC"):
        cl.load_adapter(other, tmp_path)
    cl.save_adapter(trained(other, "two"), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cl.load_adapter(other, tmp_path, "with its own")


def test_one_that_is_not_active_is_merged_by_name_or_nothing_changes():
    model = trained(tiny("LlamaForSequenceClassification"), "one")
    one, two = answer(model), answer(trained(model, "two", seed=2))
    cl.merge_adapters(model, "one")
    assert close(answer(model), one) and cl.active_adapter(model) == "one"
    cl.unmerge_adapters(model)
    assert torch.equal(answer(model), one)
    next(layer for _, layer in cl.adapter_layers(model)).U.data.fill_(torch.inf)
    cl.set_adapter(model, "two")
    with pytest.raises(ValueError, match="the merged weight of .* not finite"):
        cl.merge_adapters(model, "one")
    assert torch.equal(answer(model), two) and cl.active_adapter(model) == "two"


@pytest.mark.parametrize("save", [cl.save_adapter, cl.export_to_peft])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_save_that_fails_leaves_the_one_before(save, suffix, tmp_path, monkeypatch):
    """The disk is full at one of the two files."""
    model, write = trained(tiny(GPT2)), type(tmp_path).write_bytes
    save(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, content):
        if path.suffix == suffix:
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save(trained(model, "other", seed=1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
