"""Figures from made-up records: what is drawn is what the records hold."""

import numpy as np
import pytest
from made_records import record

from curlora_lite.replication import figures, profiles, runs


def lines(ax):
    """Label -> (line, its bars' ends or None) of what was drawn with error bars."""
    return {c.get_label(): (c.lines[0], c.lines[2][0].get_segments() if c.has_yerr else None)
            for c in ax.containers}  # fmt: skip


def test_the_course_shows_means_and_deviations_over_seeds(frame):
    *panels, _ = figures.course(frame, "table1").axes
    mrpc = lines(panels[0])
    assert list(mrpc) == ["Head only", "LoRA-8", "CURLoRA-8"]
    assert [line.get_marker() for line, _ in mrpc.values()] == [*"s^o"]  # without colour too
    means, bars = mrpc["CURLoRA-8"]
    assert means.get_ydata().tolist() == pytest.approx([0.64, 0.63, 0.63])
    spread = np.std([0.62, 0.66], ddof=1)
    assert bars[0][:, 1].tolist() == pytest.approx([0.64 - spread, 0.64 + spread])
    for panel, values in zip(panels, ([0.70, 0.60, 0.40], [0.90, 0.80], [0.60]), strict=True):
        assert lines(panel)["LoRA-8"][0].get_ydata().tolist() == pytest.approx(values)
    assert [panel.lines[-1].get_ydata()[0] for panel in panels] == [0.68, 0.51, 0.5]
    assert panels[0].get_title() == "MRPC\n100 rows"
    assert panels[2].get_title() == "Sentiment140\n100 rows, half positive"


def test_names_stand_at_the_lines_ends_and_not_on_each_other(frame):
    """SST-2 ends at 0.51 (the majority), 0.70, 0.75 and 0.80, closer than text is high."""
    panel = figures.course(frame, "table1").axes[1]
    names = [(text.get_text(), text.get_color()) for text in panel.texts]
    assert names[:2] == [("majority class", "black"), ("Head only", "#777777")]
    assert names[2:] == [("CURLoRA-8", "#0072B2"), ("LoRA-8", "#D55E00")]
    low, high = panel.get_ylim()
    heights = [text.get_position()[1] for text in panel.texts]
    assert heights[:2] == pytest.approx([0.51, 0.70])
    assert np.diff(heights).min() > 0.079 * (high - low) > 0.05


def test_accuracy_of_one_seed_has_wilsons_interval():
    """(p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n), for p = 0.9, n = 100, z = 1.96."""
    spec = profiles.grid("embedded", "table1", ranks=[8], methods=["lora"], precision="fp32")[0]
    made = record(spec, [[0.9], [0.9, 0.9], [0.9, 0.9, 0.9]], (1.0, 1.0))
    panel = figures.course(runs.of_grid([made]), "table1").axes[0]
    _, bars = lines(panel)["LoRA-8"]
    assert bars[0][:, 1].tolist() == pytest.approx([0.8256, 0.9448], abs=1e-4)


@pytest.mark.parametrize("figure", [figures.perplexity, figures.course])
def test_perplexity_is_after_over_before(frame, figure):
    *_, ax = figure(frame, "table1").axes
    drawn = lines(ax)
    assert drawn["LoRA-8"][0].get_ydata().tolist() == pytest.approx([3.0])
    assert drawn["CURLoRA-8"][0].get_ydata().tolist() == pytest.approx([1.234], abs=1e-3)
    assert [text.get_text() for text in ax.texts] == ["×1.00", "×3.00", "×1.23"]
    assert ax.get_yscale() == "log"


def test_saved_as_png_and_pdf(frame, tmp_path):
    for folder in "ab":
        figures.save(figures.perplexity(frame, "table1"), tmp_path / folder / "lost")
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in "ab")
    assert one == other  # no dates in them
    assert {n: text[:4] for n, text in one.items()} == {"lost.png": b"\x89PNG", "lost.pdf": b"%PDF"}
