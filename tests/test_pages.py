"""What pages say in their sentences: each number from the committed records, each claim held."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from curlora_lite import metrics
from curlora_lite.replication import paper, records, rules, runs

USUAL, STEPS = "LoRA-16, lora_init=usual", "LoRA-16, schedule=steps"
OURS, LORA, WIDE, HEAD = "CURLoRA-16", "LoRA-16", "CURLoRA-24", "Head only"
TUNE, AT = "smollm2-tune", ["label", "learning_rate"]
EVEN, MOVED = runs.BALANCED, ["moved", "percent"]


@pytest.fixture(scope="module")
def frames(committed):
    """`audit`: of stand-in data, a row a run, by condition; every, papers: of the paper's data, and
    means over seeds; gain, learned: over head only of the same seed. rows: the tidy frames. front,
    first, tuned: other rates, by label and learning rate, mean over seeds and seed 0; gain, ends:
    over the best head.
    """
    rows = {name: runs.frame(name, committed) for name in ("audit", "smollm2")}
    rows["audit"] = rows["audit"][rows["audit"].table == "table1"]
    made = {name: runs.summary(frame) for name, frame in rows.items()}
    for frame in made.values():
        frame.index = (frame.label + ", " + frame.protocol).str.replace(", published", "")
        frame.sort_values("seed", inplace=True)
    every = made["smollm2"]
    head = every.loc[[HEAD]].set_index("seed")[["acc", "just_learned"]]
    every[["gain", "learned"]] = every[[*head]] - head.loc[every.seed].values
    papers = every.groupby(level=0).mean(numeric_only=True)
    papers["ratio"] = np.exp(papers.nats)
    papers["percent"], papers["moved"] = 100 * (papers.ratio - 1), 100 * papers.norm
    front, tuned = every[every.protocol.str.startswith("corrected")], runs.frame(TUNE, committed)
    front, tuned = (one.set_index(AT).sort_index() for one in (front, runs.summary(tuned)))
    head = front.loc[(HEAD, 4e-3)].set_index("seed")[["just_learned", "acc"]].loc[front.seed]
    front[["gain", "ends"]] = front[[*head]] - head.values
    first, front = front[front.seed == 0], front.groupby(level=AT).mean(numeric_only=True)
    front["ratio"] = np.exp(front.nats)
    made = {"audit": made["audit"], "papers": papers, "every": every, "rows": rows}
    return SimpleNamespace(**made, front=front, first=first, tuned=tuned[tuned.head_rate.isna()])


def span(values):
    return min(values), max(values)


def forgotten(frames, *most):
    """What LoRA forgets in the seeds where it forgets most."""
    found = sorted(frames.every.forgetting[LORA], reverse=True)
    return [found[place] for place in most]


def at_the_end(frames, task, *labels, stage=3):
    """Accuracies on the paper's data after the last stage, or another, in the order of seeds."""
    rows = frames.rows["smollm2"].query(f"measure == 'accuracy' and stage == {stage}")
    rows = rows[(rows.task == task) & (rows.protocol == "published")].sort_values("seed")
    return rows.value[rows.label.isin(labels or rows.label)]


def majority(frames, profile, task):
    rows = frames.rows[profile]
    return rows[(rows.measure == "accuracy") & (rows.task == task)].majority.iloc[0]


def broken(table):
    """How many times perplexity grows with LoRA of each rank, as published."""
    return [row[-1] / row[0] for (m, _), row in paper.PUBLISHED[table].items() if m == "lora"]


def even(frames):
    """At the end, on balanced rows: means of CURLoRA-16 and head only, LoRA-16's interval."""
    ours, head, lora = (at_the_end(frames, EVEN, label) for label in (OURS, HEAD, LORA))
    return ours.mean(), head.mean(), *metrics.t_interval(lora)[:3]


def half(frames):
    """How perplexity grows for half of what both gain, seed 0: CURLoRA, LoRA."""
    lines = [frames.first.loc[label] for label in (OURS, LORA)]
    gain = min(line.gain.max() for line in lines) / 2
    return np.exp([rules.cost_at(gain, [0, *line.gain], [0, *line.nats]) for line in lines])


def best_head(frames):
    """Its rate in thousandths, and how far it ends above the published rate's."""
    acc = frames.first.acc[HEAD]
    return 1000 * acc.idxmax(), acc.max() - acc[2.5e-4]


def higher(frames):
    """What CURLoRA at 1e-3 learns beyond the best head, how far it ends above it; how perplexity
    grows with it, and with LoRA at 2.5e-4."""
    ours, lora = frames.front.loc[OURS, 1e-3], frames.front.loc[LORA, 2.5e-4]
    assert round(ours.gain, 2) == round(lora.gain, 2)  # as much
    return ours.gain, ours.ends, ours.ratio, lora.ratio


def little(frames):
    """Half the best rates, LoRA and CURLoRA: how far each ends above the best head, its growth."""
    return frames.front.loc[[(LORA, 1.25e-4), (OURS, 5e-4)], ["ends", "ratio"]].values.ravel()


def beyond(frames):
    """Growth of perplexity at four times the best rates: CURLoRA, LoRA."""
    return frames.front.ratio[[(OURS, 4e-3), (LORA, 1e-3)]]


def of_mrpc(frames):
    """The least and the most that LoRA loses of MRPC."""
    ends = (at_the_end(frames, "mrpc", LORA, stage=i).values for i in (1, 3))
    return span(np.subtract(*ends))


def less(frames, name, *measures):
    """A condition's measures less CURLoRA-16's, on the paper's data."""
    return frames.papers.loc[name, [*measures]] - frames.papers.loc[OURS, [*measures]]


def larger(frames):
    return [frames.papers.parameters[LORA] / frames.papers.parameters[OURS]]


# page -> {what its sentence says: the numbers for the braces, from the frames}
FACTS = {
    "README.md": {
        "×{:.2f} with CURLoRA (rank 24: ×{:.2f}), ×{:.2f} with LoRA,": lambda f: f.papers.ratio[
            [OURS, WIDE, LORA]
        ],
        "×{:.2f} with LoRA usually initialised": lambda f: [f.papers.ratio[USUAL]],
        "The paper's LoRA: ×{:,.0f}, on": lambda f: [round(broken("table1")[1], -3)],
        "{:.3f} ({:.3f} to {:.3f}) above": lambda f: metrics.t_interval(f.every.gain[OURS]),
        "LoRA ends {:.2f} above it": lambda f: [f.papers.gain[LORA]],
        "less on MRPC in every seed, by {:.2f} to {:.2f}": of_mrpc,
        "with {:.0f} times as many": larger,
        "{:.2f} more than the best head alone at 1e-3 (it ends {:.2f} above), for ×{:.2f}": higher,
        "as much at 2.5e-4 for ×{3:.2f}": higher,
        "four times these rates (one seed) it is ×{:.2f} and ×{:.2f}": beyond,
        "at {:.0f}e-3: it ended {:.2f} above": best_head,
        "ended {:.2f} above that head for ×{:.2f}, CURLoRA at 5e-4 {:.2f} for ×{:.2f}": little,
    },
    "results/audit/README.md": {
        "by {:.3f} ({:.3f} to {:.3f}), in": lambda f: metrics.t_interval(f.every.gain[OURS]),
        "at rank 24 by {:.2f}": lambda f: [f.papers.gain[WIDE]],
        "LoRA ends {:.2f} above the head": lambda f: [f.papers.gain[LORA]],
        "trains {:.0f} times as many": larger,
        "grows ×{:.2f} instead of ×{:.2f} (geo": lambda f: f.papers.ratio[[USUAL, LORA]],
        "whose perplexity grows ×{:.2f}": lambda f: [f.papers.ratio[OURS]],
        "grows ×{:,.0f} to ×{:,.0f}; ": lambda f: np.round(span(broken("table1")), -3),
        "{:.2f} more than CURLoRA and loses {:.2f}": lambda f: less(f, LORA, "learned", "nats"),
        "{0:.2f} more than the best head for ×{2:.2f}, LoRA, usually initialised, "
        "for ×{3:.2f}": higher,
        "half as much costs CURLoRA ×{:.2f} and LoRA ×{:.2f}": half,
        "four times the rates give ×{:.2f} and ×{:.2f}": beyond,
        "rate LoRA's grew ×{:.2f}": lambda f: [f.tuned.ratio[LORA, 2.5e-4]],
        "less on MRPC in every seed, by {:.2f} to {:.2f}": of_mrpc,
        "ends {1:.2f} higher at {0:.0f}e-3 (one seed) than at 2.5e-4": best_head,
        "at 1e-3, corrected, ends {1:.2f} above the head at 4e-3": higher,
        "with {:.2f} more learned": lambda f: less(f, USUAL, "learned"),
        "bare head scores {:.2f} to {:.2f} on": lambda f: span(at_the_end(f, "sentiment140", HEAD)),
        "and {:.2f} where half": lambda f: [at_the_end(f, EVEN, HEAD).mean()],
        "grows ×{:.0f} instead of ×{:.2f}, but": lambda f: [
            np.exp(f.audit.nats[name].mean()) for name in (STEPS, LORA)
        ],
        "losing {:.2f} doubles it": lambda f: [np.log(2)],
    },
    "results/smollm2/README.md": {
        "It grows ×{:.2f}, by": lambda f: [f.papers.ratio[OURS]],
        "rank 24 it grows ×{:.2f}": lambda f: [f.papers.ratio[WIDE]],
        "LoRA's grows ×{:.2f}": lambda f: [f.papers.ratio[LORA]],
        "usually initialised, ×{:.2f}": lambda f: [f.papers.ratio[USUAL]],
        "initialised LoRA forgets {:.2f}, more": lambda f: [f.papers.forgetting[USUAL]],
        "trains {:.0f} times as many": larger,
        "but by {:.3f} in the mean": lambda f: [f.papers.gain[OURS]],
        "rank 24 it ends {:.2f} above": lambda f: [f.papers.gain[WIDE]],
        "head only has {:.2f} to {:.2f} on": lambda f: span(at_the_end(f, "sentiment140", HEAD)),
        "a constant answer has {:.2f}": lambda f: [majority(f, "smollm2", EVEN)],
        "There CURLoRA has {:.2f}, head only {:.2f}, and LoRA {:.2f} ({:.2f} to {:.2f})": even,
        "seeds: {:.2f} and {:.2f} in two": lambda f: forgotten(f, 0, 1),
        "three seeds], not tested: ×{3:.2f} against ×{2:.2f}": higher,
        "LoRA ends {:.2f} above it, whichever": lambda f: less(f, LORA, "acc"),
        "{:.1f} % of their norm and perplexity by {:.0f} %": lambda f: f.papers.loc[USUAL, MOVED],
        "CURLoRA-24 by {:.1f} % and {:.0f} %": lambda f: f.papers.loc[WIDE, MOVED],
        "LoRA's from ×3.06 to ×{:.2f}": lambda f: [f.every.ratio[LORA].iloc[0]],
        "({:.2f} to {:.2f}, where the majority class has {:.2f})": lambda f: (
            *(at_the_end(f, "mrpc", LORA, stage=i).mean() for i in (1, 3)),
            majority(f, "smollm2", "mrpc"),
        ),
    },
}
# Pages of which every number in a sentence is a fact, or one of these: names, settings, bounds
# that an assertion below holds.
COMPLETE = ["results/audit/README.md", "results/smollm2/README.md"]
NAMES = [
    r"SmolLM2-135M(-Instruct)?|Mistral-7B(-v0\.3)?|\b7B model|(CUR)?LoRA-\d+|SST-2|GPT-2",
    r"Sentiment140|WikiText-2|Table \d|Eq\. \d|[Qq]uestion \d|\*\*\d\. |95 %|[Ss]eed 0|sha256",
    r"[Rr]anks \d+ and \d+|[Rr]ank \d+|576 columns|Mistral's 4,096|first 512 positive|version \d",
    r"more than 0\.01 above|than 0\.02 of an|to 0\.9: does|2\.5e-4 on the paper's, 3e-3",
]


def sentences(page):
    """A page without tables, code, pictures, targets of links and comments, on one line."""
    text = re.sub(r"<!-- ([\w-]+/\w+) -->.*?<!-- /\1 -->|```.*?```", "", page, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "!["))]
    return re.sub(r"\]\([^)]*\)|`[^`]*`", "]", " ".join(lines))


@pytest.mark.parametrize(
    ("page", "what"), [(page, what) for page, facts in FACTS.items() for what in facts]
)
def test_a_number_in_a_sentence_is_what_the_records_give(frames, page, what):
    said = what.format(*FACTS[page][what](frames))
    assert said in sentences((records.ROOT / page).read_text())


@pytest.mark.parametrize("page", COMPLETE)
def test_no_number_in_a_sentence_is_without_a_fact(frames, page):
    text = sentences((records.ROOT / page).read_text())
    for what, numbers in FACTS[page].items():
        text = text.replace(what.format(*numbers(frames)), "")
    left = re.sub("|".join(NAMES), "", text)
    assert re.findall(r".{0,30}\d.{0,30}", left) == []


def test_what_the_audits_page_says_beyond_what_its_notebook_asserts(frames):
    assert {round(times, 1) for times in broken("table2")} <= {1.5, 1.6}  # by half
    for task in ("sentiment140", EVEN):  # within three answers in a hundred
        ours, head = at_the_end(frames, task, OURS), at_the_end(frames, task, HEAD)
        assert np.abs(ours.values - head.values).max() < 0.03
    rows = frames.rows["audit"].query("measure == 'accuracy' and task == 'mrpc' and stage == 3")
    # on the stand-in of MRPC
    assert rows.groupby(["label", "protocol"]).value.mean().max() < rows.majority.iloc[0] + 0.01


def test_what_the_page_on_the_papers_data_says_without_numbers(frames):
    every = frames.every
    assert list(every.seed[OURS]) == list(every.seed[LORA]) == list(range(5))
    assert (every.acc[LORA].values > every.acc[OURS].values).all()  # more accurate in each seed
    assert every.ratio[OURS].max() < 1.02 and every.gain[OURS].min() > 0  # in each seed
    assert every.forgetting[USUAL].min() > 0  # a little in each
    assert max(every.forgetting[OURS].max(), *forgotten(frames, 2)) < 0.02  # next to nothing
    assert abs(frames.papers.acc[USUAL] - frames.papers.acc[LORA]) < 0.005  # whichever
    published = {cell: np.mean(row[4:7]) for cell, row in paper.PUBLISHED["table1"].items()}
    assert all(published["curlora", r] - published["lora", r] > 0.2 for r in paper.RANKS)
