"""Few rows and one rank for the profiles of the paper's models.

Python imports a module of the name `sitecustomize`, if it finds one, before it runs anything else.
`rehearsal.py` puts this folder and its copy of the checkout on PYTHONPATH: every Python that the
command starts begins with this, the notebooks' too, and the profiles themselves stay as they are.
Nothing else uses it.
"""

import dataclasses

from curlora_lite.replication import memory, profiles

ROWS = 4
LAYERS = 2  # of Mistral's 32

for name in ("gpt2-large", "mistral-7b"):
    tables = {}
    for table, plan in profiles.PROFILES[name].tables.items():
        few = {"train_rows": ROWS, "eval_rows": ROWS, "epochs": 1}
        tasks = tuple(dataclasses.replace(task, **few) for task in plan.tasks)
        tables[table] = dataclasses.replace(plan, tasks=tasks, batch=ROWS)
    profiles.PROFILES[name] = dataclasses.replace(
        profiles.PROFILES[name], tables=tables, ranks=(8,)
    )
parameters, layers, *others = memory.SHAPES["mistral-7b"]
memory.SHAPES["mistral-7b"] = (parameters - (layers - LAYERS) * 218_112_000, LAYERS, *others)
