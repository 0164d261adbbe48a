"""The state of a run between two tasks: a run that was killed goes on from there.

One safetensors file: what is trained of the model, the heads, the random generators, and in its
header the record so far. The optimiser begins anew with each task, so it has no state to keep.
"""

import dataclasses
import json

import safetensors
import torch
from safetensors.torch import save_file

from . import fetch


def save(path, record, model, heads):
    """Keep the state after the last of `record.stages`; heads: task -> its trained head.

    CannotWriteError where the folder is full or read-only.
    """
    tensors = {f"model {name}": p for name, p in model.named_parameters() if p.requires_grad}
    for task, head in heads.items():
        tensors |= {f"head {task} {name}": value for name, value in head.state_dict().items()}
    tensors["generator cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["generator cuda"] = torch.cuda.get_rng_state()
    with fetch.aside(path) as part:
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(kept, part, metadata={"record": json.dumps(dataclasses.asdict(record))})


def load(path, record):
    """(fields of the record so far, tensors) of the run that `record` begins; None if none fits.

    It fits if spec, version, model and provenance (packages, machine, threads, working copy
    and commit) are those of `record`; the day may be another. A damaged file is none.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            kept = json.loads(file.metadata()["record"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (FileNotFoundError, safetensors.SafetensorError, ValueError, KeyError, TypeError):
        return None
    same = all(kept[name] == getattr(record, name) for name in ("spec", "version", "model_sha256"))
    return (kept, tensors) if same and _place(kept) == _place(vars(record)) else None


def _place(record):
    return {name: value for name, value in record["provenance"].items() if name != "date"}


def restore(tensors, model, heads):
    """Put what `load` gave into a model with fresh adapters and into fresh heads, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"model {name}"])
    for task, head in heads.items():
        head.load_state_dict({n: tensors[f"head {task} {n}"] for n in head.state_dict()})
    torch.set_rng_state(tensors["generator cpu"])
    if "generator cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator cuda"])
