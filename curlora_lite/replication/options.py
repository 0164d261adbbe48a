"""What the command line takes: its commands and their options."""

import argparse

from .specs import PRECISIONS


def parser(description, runs):
    """An ArgumentParser. runs: name of a command -> the function that takes its options."""
    name = "python -m curlora_lite.replication"
    whole = argparse.ArgumentParser(prog=name, description=description)
    commands = whole.add_subparsers(required=True)
    for name, run in runs.items():
        command = commands.add_parser(name)
        command.set_defaults(run=run, profile="audit" if name == "audit" else "embedded")
        command.add_argument("--profile")
        for option, (at, how) in OPTIONS.items():
            if name in at:
                command.add_argument(f"--{option}", **how)
    return whole


GRID, RUNS, ON = ("reproduce", "report"), ("reproduce", "audit"), {"action": "store_true"}
# option: (the commands that have it, what argparse is told of it)
OPTIONS = {
    "quick": (("reproduce", "audit", "report", "verify", "bench", "fetch"), ON),
    "tables": (("reproduce", "bench"), ON),
    "ranks": (GRID, {}),
    "seeds": ((*GRID, "audit"), {}),
    "methods": (GRID, {}),
    "protocol": (GRID, {}),
    "precision": (GRID, {"choices": PRECISIONS}),
    "checkpointing": (GRID, ON),
    "cells": (("audit",), {}),
    "workers": ((*GRID, "audit"), {"type": int}),
    "executor": (RUNS, {"choices": ("local", "slurm"), "default": "local"}),
    "partition": (RUNS, {}),
    "gpus": (RUNS, {"type": int, "help": "of a run"}),
    "memory": (RUNS, {"type": int, "help": "GB of a run"}),
    "minutes": (RUNS, {"type": int, "help": "of a run"}),
    "keys": (("verify",), {"type": lambda text: text.split(",")}),
    "share": (("verify",), {"type": float}),
}
