"""Weights that accelerate keeps on the CPU or on disk, and weights that are not there at all."""

import accelerate
import pytest
import torch
from small_runs import METHODS, logits, tiny_gpt2, tiny_llama
from test_works_with import gradients, loss_of, started

import curlora_lite as cl

MODELS = {"llama": (tiny_llama, "model.layers", ["q_proj", "v_proj"]),
          "gpt2": (tiny_gpt2, "transformer.h", ["c_attn"])}  # fmt: skip


def made(name):
    """Biases that are not zero, which a hook takes away again after each forward."""
    model = MODELS[name][0]()
    for n, parameter in model.named_parameters():
        if n.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def elsewhere(model, name, where, folder):
    if where == "cpu":
        return accelerate.cpu_offload(model, execution_device="cpu")
    if where == "disk":
        return accelerate.disk_offload(model, folder, execution_device="cpu")
    layers = MODELS[name][1]  # as device_map="auto" does it: some blocks here, some on disk
    base = layers.split(".")[0]
    here = [f"{base}.{n}" for n, _ in getattr(model, base).named_children()]
    places = dict.fromkeys([n for n in here if n != layers] + ["lm_head", f"{layers}.1"], "cpu")
    return accelerate.dispatch_model(
        model, places | {f"{layers}.0": "disk"}, main_device="cpu", offload_dir=folder,
        force_hooks=True,
    )  # fmt: skip


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("late", [False, True], ids=["added to it", "sent there with it"])
@pytest.mark.parametrize("where", ["cpu", "disk", "dispatched"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_over_weights_kept_elsewhere(method, name, where, late, tmp_path):
    """All its life, as over the same weights here; what is trained stays here with its gradient."""
    config = METHODS[method](rank=4, target_modules=MODELS[name][2])
    here, model = started(made(name), config), made(name)
    model = elsewhere(started(model, config) if late else model, name, where, tmp_path / "weights")
    model = model if late else started(model, config)
    assert any(parameter.is_meta for parameter in model.parameters())
    for one in (here, model):
        loss_of(one).backward()
        torch.optim.SGD([p for p in one.parameters() if p.requires_grad], 0.1).step()
    close(list(gradients(model).values()), list(gradients(here).values()))
    expected = logits(here)
    close(logits(model), expected)
    cl.save_adapter(model, tmp_path / "adapter")
    for other in (made(name), elsewhere(made(name), name, where, tmp_path / "more")):
        cl.load_adapter(other, tmp_path / "adapter", check_base="exact")
        close(logits(other), expected)
    cl.merge_adapters(model)
    close(logits(model), expected)
    cl.unmerge_adapters(model)
    cl.add_adapters(model, METHODS[method](rank=2, target_modules=MODELS[name][2]), "two")
    cl.set_adapter(model, "default")
    close(logits(model), expected)
    cl.remove_adapters(model)
    assert torch.equal(logits(model), logits(made(name)))


@pytest.mark.parametrize("there", [False, True])
def test_a_tied_head_is_not_merged_into(gpt2, there):
    model = accelerate.cpu_offload(gpt2, execution_device="cpu") if there else gpt2
    cl.add_adapters(model, cl.LoRAConfig(rank=2, target_modules=["lm_head"]))
    with pytest.raises(ValueError, match="is tied: .*lm_head"):
        cl.merge_adapters(model)


def without(model):
    """One weight that nobody brings."""
    model.model.layers[1].self_attn.v_proj.to("meta")


def brought_with_all(model):
    """A hook on the block alone, which the projections inside know nothing of."""
    accelerate.cpu_offload(model, "cpu")
    accelerate.hooks.remove_hook_from_submodules(model.model.layers)
    model.model.layers.to("meta")


@pytest.mark.parametrize("gone", [without, brought_with_all])
@pytest.mark.parametrize("method", METHODS)
def test_no_indices_are_made_up(llama, method, gone):
    gone(llama)
    with pytest.raises(ValueError, match="on the meta device, without numbers; load it first"):
        cl.add_adapters(llama, METHODS[method](rank=4))
    assert not cl.adapter_names(llama)


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_of_shapes_alone_never_gets_numbers(method, tmp_path):
    with torch.device("meta"):
        model = tiny_llama()
    for name in ("one", "two"):
        cl.add_adapters(model, METHODS[method](rank=4), name)
    for does, arguments in ((cl.save_adapter, [tmp_path]), (cl.merge_adapters, [])):
        with pytest.raises(ValueError, match="on the meta device, without numbers"):
            does(model, *arguments)
    with pytest.raises(ValueError, match="was added without weights"):
        model.to_empty(device="cpu")
