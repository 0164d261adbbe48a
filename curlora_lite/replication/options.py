"""What the command line takes: its commands and their options."""

import argparse


def parser(description, runs):
    """An ArgumentParser. runs: name of a command -> the function that takes its options."""
    whole = argparse.ArgumentParser(
        prog="python -m curlora_lite.replication", description=description
    )
    commands = whole.add_subparsers(required=True)
    for name, run in runs.items():
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        if name == "bench":
            command.add_argument("--tables", action="store_true", help="anew, without measuring")
        if name == "reproduce":
            command.add_argument("--tables", action="store_true", help="anew, without computing")
        command.add_argument("--profile", default="embedded")
        command.add_argument("--quick", action="store_true", help="the profile's small variant")
        if name == "audit":
            command.set_defaults(profile="audit")
            command.add_argument("--seeds", type=_integers)
            command.add_argument("--workers", type=int)
        if name == "verify":
            command.add_argument("--keys", type=lambda text: text.split(","))
            command.add_argument("--share", type=float)
        if name in ("reproduce", "report"):
            command.add_argument("--ranks", type=_integers)
            command.add_argument("--seeds", type=_integers)
            command.add_argument("--methods", type=lambda text: text.split(","))
            command.add_argument("--protocol")
            command.add_argument("--precision", choices=("fp32", "tf32", "bf16"))
            command.add_argument("--checkpointing", action="store_true")
            command.add_argument("--workers", type=int)
        if name in ("reproduce", "audit"):
            _add_cluster(command)
    return whole


def _add_cluster(command):
    command.add_argument("--executor", default="local", choices=("local", "slurm"))
    command.add_argument("--partition")
    for name, unit in (("gpus", "of a run"), ("memory", "GB of a run"), ("minutes", "of a run")):
        command.add_argument(f"--{name}", type=int, help=unit)


def _integers(text):
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected whole numbers with commas between, as in 8,16"
        ) from None
