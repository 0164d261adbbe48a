"""The audit's tables and claims, from made-up records whose answers are known."""

import math

import pytest

from curlora_lite import records
from curlora_lite.audit import figures, measures, pages, plan, tables, words
from curlora_lite.audit.claims import claims_table
from curlora_lite.audit.plan import corrected, published, small

TASKS = ("mrpc", "sst2", "sentiment140")


def score(accuracy, n=100, classes=2):
    right = round(accuracy * n)
    answers = [right, n - right] + [0] * (classes - 2)
    return {"accuracy": accuracy, "n": n, "majority": 0.5, "predicted": answers}


def made_up(cell, seed, R, ratio=1.0, update=0.01, status="finished"):
    """A record with the score matrix R; Sentiment140's first rows always at 0.95."""
    (spec,) = cell.specs([seed])
    stages = []
    for i, row in enumerate(R):
        scores = {task: score(a) for task, a in zip(TASKS, row, strict=False)}
        if i == 2 and cell.protocol.sentiment_eval == "first":
            scores["sentiment140, balanced"] = scores["sentiment140"] | {"predicted": [60, 40, 0]}
            scores["sentiment140"] = score(0.95, classes=3)
        norms = {} if cell.method == "head-only" else {"c_attn": update * (i + 1)}
        figures = {"weight": 10.0, "update": 10 * update, "bound": 1.0, "shift": 0.02}
        figures |= {"C": 1.0, "R": 2.0, "U": 3.0, "rank_C": 15.0, "rank_R": 14.0}
        geometry = {"c_attn": figures} if cell.method == "curlora" else {}
        stages.append({"task": TASKS[i], "scores": scores, "norms": norms, "geometry": geometry})
    return records.RunRecord(
        spec.to_dict(),
        status=status,
        stages=stages,
        perplexity={"initial": {"perplexity": 10.0}, "final": {"perplexity": 10.0 * ratio}},
        seconds=36.0,
        provenance={"device": "a CPU", "commit": "c" * 40},
    )


def matrix(learned, lost=0.0):
    """Each task learned to `learned`; the two earlier ones have lost `lost` at the end."""
    return [[learned], [learned, learned], [learned - lost, learned - lost, learned]]


SEEDS = (0, 1, 2)


@pytest.fixture
def found():
    """CURLoRA as head only, but for noise; LoRA learns 0.1 more, loses 0.2 of it and perplexity."""
    behaviour = {
        "head-only": (0.6, 0.0, 1.0),
        "curlora": (0.6, 0.0, 1.001),
        "lora": (0.7, 0.2, 3.0),
    }
    noise = {0: 0.0, 1: 0.01, 2: -0.01}
    questions = plan.plan("audit-quick")
    out = {}
    for question, cells in questions.items():
        out[question] = {}
        for cell in cells:
            learned, lost, ratio = behaviour.get(cell.method, (0.65, 0.1, 2.0))
            if cell.method == "lora" and cell.protocol.lora_init == "usual":
                ratio = 1.2
            if question == "movement" and cell.rate:  # learns with the rate, at a price
                step = sorted({c.rate for c in cells if c.method == cell.method}).index(cell.rate)
                price = {"curlora": 2.0}.get(cell.method, 1.0)
                learned, ratio = 0.6 + 0.05 * step, math.exp(price * step)
            out[question][cell] = [
                made_up(cell, s, matrix(learned + noise[s], lost + noise[s] * (lost > 0)), ratio)
                for s in SEEDS
            ]
    return out


def test_measures_by_hand():
    cell = small("audit", "table2", "lora", published())
    run = made_up(cell, 4, [[0.6], [0.5, 0.8], [0.4, 0.9, 0.7]], ratio=math.e, update=0.01)
    m = measures.measures(run)
    assert (m.seed, m.learned, m.acc) == (4, pytest.approx(0.7), pytest.approx(2.0 / 3))
    assert m.forgetting == pytest.approx(((0.6 - 0.4) + (0.8 - 0.9)) / 2)
    assert (m.ratio, m.nats) == (pytest.approx(math.e), pytest.approx(1))
    assert m.update == pytest.approx(0.03)
    assert measures.measures(made_up(cell, 0, matrix(0.5), status="diverged")) is None


def test_equal_gain_by_hand():
    """0.5 at 0 nats, 0.7 at 1 nat: 0.6 costs a half. A seed that stays at 0.5 never gets there."""
    cell = small("audit", "table2", "lora", corrected())
    low = [made_up(cell, s, matrix(0.5)) for s in (0, 1)]
    high = [made_up(cell, 0, matrix(0.7), math.e), made_up(cell, 1, matrix(0.5), math.e)]
    sweep = {0.1: high, 0.001: low}
    assert measures.at_equal_gain(sweep, 0.6, "nats") == {0: pytest.approx(0.5)}
    assert measures.at_equal_gain(sweep, 0.8, "nats") == {}


def test_head_only_table_pairs_by_seed(found):
    table = tables.head_only(found["head-only"])
    rows = {row[0]: row for row in table.rows}
    assert rows["small GPT-2: CURLoRA-16"][5] == "+0.000 (+0.000 to +0.000)"
    assert rows["small GPT-2: CURLoRA-16"][6] == "1.000"
    # ends at 0.6 - 0.2 x 2/3 + 0.1, the noise in what is lost leaves 1/3 of itself
    lora = rows["small GPT-2: LoRA-16, authors init"]
    assert lora[5].startswith("-0.033 (")
    assert lora[7] == "×3.00"
    assert rows["SmolLM2: Head only"][3].startswith("0.600 (0.575 to 0.625)")  # t 4.303, sd 0.01


def test_claims_follow_from_the_records(found):
    table = claims_table(found, {"lora": 100, "curlora": 4})
    rows = {row[0]: row[1:] for row in table.rows}
    by = {name.split("”")[0].strip("“"): row for name, row in rows.items()}
    forgets = by["outperforms standard LoRA in mitigating catastrophic forgetting"]
    assert forgets[0] == "yes"
    assert forgets[1] == "yes"  # LoRA lost 0.2 there too
    assert by["maintaining base model's perplexity scores fixed"][0] == "yes"
    assert by["very good and stable task accuracy"][0].endswith("frozen model: undecided")
    assert "25 times fewer" in by["significantly reducing the number of trainable parameters"][2]
    assert rows["all of this for Mistral-7B (§7, Table 1)"][0] == "cannot be decided here"
    learned = next(row for name, row in rows.items() if name.startswith("Sentiment140"))
    assert learned[0].startswith("in 6 of 6 cells") and learned[1].endswith("in 0 of 6 cells")
    collapse = next(row for name, row in rows.items() if name.startswith("LoRA's perplexity"))
    assert "×3.00 with the authors'" in collapse[2] and "×1.20 with the usual" in collapse[2]


def test_a_claim_turns_with_its_evidence(found):
    """The same records with CURLoRA's and LoRA's swapped: the verdict turns too."""
    cells = found["head-only"]
    swapped = {}
    for cell in cells:
        other = {"curlora": "lora", "lora": "curlora"}.get(cell.method)
        if other is None or cell.protocol != published():
            swapped[cell] = cells[cell]
            continue
        source = next(c for c in cells if c.method == other and c.table == cell.table)
        R = {"lora": (0.7, 0.2, 3.0), "curlora": (0.6, 0.0, 1.001)}[source.method]
        noise = (0.0, 0.01, -0.01)
        swapped[cell] = [
            made_up(cell, s, matrix(R[0] + noise[s], R[1] + noise[s] * (R[1] > 0)), R[2])
            for s in SEEDS
        ]
    table = claims_table({**found, "head-only": swapped}, {"lora": 100, "curlora": 4})
    assert table.rows[0][1] == "no"  # it forgets more
    assert table.rows[1][1] == "no"


def test_without_runs_nothing_is_claimed():
    table = claims_table({question: {} for question in tables.ALL}, {"lora": 2, "curlora": 1})
    judged = [
        row[1] for row in table.rows if "Mistral" not in row[0] and "parameters" not in row[0]
    ]
    assert set(judged) == {"not known: runs are missing"}


@pytest.mark.parametrize("question", tables.ALL)
def test_every_question_has_table_figure_and_words(found, question):
    for make in tables.ALL[question].values():
        table = make(found[question])
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
        assert "nan" not in table.markdown()
    assert figures.ALL[question](found[question]).axes
    assert "nan" not in words.ALL[question](found[question])
    one = {cell: runs[:1] for cell, runs in found[question].items()}  # a single seed
    for make in tables.ALL[question].values():
        make(one)
    figures.ALL[question](one)
    words.ALL[question](one)


def test_pages_are_saved_and_say_what_is_missing(found, tmp_path):
    for question, cells in found.items():
        shown = pages.page(question, cells, tmp_path)
        assert "What follows." in shown[-1].data
    without = {c: runs for c, runs in found["movement"].items() if c.method != "head-only"}
    (line,) = pages.page("movement", without, tmp_path)
    assert "not there" in line.data
    pages.last_page(found, tmp_path)
    pages.last_page({**found, "movement": without}, tmp_path)
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    assert {
        "claims.tex",
        "tables/movement.md",
        "tables/compute.csv",
        "figures/movement.png",
    } <= made
