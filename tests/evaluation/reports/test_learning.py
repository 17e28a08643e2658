"""What a training measured, as curves and in words."""

import re

import pytest
from recede.evaluation.reports.charts import Series, curve
from recede.evaluation.reports.learning import learning, outlook, write_training_page


def errors(*values):
    return [{"step": 100 * (index + 1), "action_error": value} for index, value in enumerate(values)]


def successes(*rates, episodes=20):
    return [
        {"step": 100 * (index + 1), "success_rate": rate, "mean_score": rate, "episodes": episodes}
        for index, rate in enumerate(rates)
    ]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ([], ""),
        (errors(0.1), "was 10.0 % at step 100"),
        (errors(0.1, 0.09, 0.08, 0.06), "still falling: it is 6.0 % at step 400, and was 8.0 %"),
        (errors(0.1, 0.06, 0.06, 0.06), "level: 6.0 %"),
        (errors(0.1, 0.05, 0.06, 0.07), "rose from 5.0 % at step 200, its lowest, to 7.0 % at step 400"),
        (successes(0.5), r"was 50 % \[30, 70\] of 20 episodes at step 100"),
        (successes(0.1, 0.9), "still rose"),
        (successes(0.9, 0.1), "fell"),
        (successes(0.5, 0.6, 0.55), "too few episodes to tell them apart"),
        (successes(0.5, 0.6, 0.55, episodes=2000), "fell: .* 55 %.* 60 %.* at step 200"),
    ],
)
def test_the_end_of_a_training_in_words(metrics, words):
    assert re.search(words, outlook(metrics))
    assert bool(outlook(metrics)) == bool(words)


def test_error_and_success_share_their_steps(tmp_path):
    """The success was measured up to step 200 and the error up to step 400: both axes reach 400."""
    metrics = [*errors(0.1, 0.09, 0.08, 0.07), *successes(0.2, 0.4)]
    panels = learning({"a": metrics}).split("<figure>")[1:]
    assert [re.search("<b>(.*?)</b>", panel)[1] for panel in panels] == [
        "Success during training",
        "Held-out action error",
    ]
    assert all(">400<" in panel for panel in panels)
    assert ">400<" not in curve([Series(0, [(100, 1.0), (200, 2.0)])], label="alone")


def test_each_of_several_datasets_has_a_line_and_its_last_error():
    metrics = [
        {"step": 100 * n, "action_error": 0.1, "action_error/<a>": 0.2 / n, "action_error/b": 0.04} for n in (1, 2)
    ]
    assert outlook(metrics).endswith("Of each dataset it is 10.0 % (<a>), 4.0 % (b).")
    panel = next(part for part in learning({"run": metrics}).split("<figure>") if "of each dataset" in part)
    assert re.findall('class="key (s.)">(.*?)<', panel) == [("s0", "&lt;a&gt;"), ("s1", "b")]
    assert len(re.findall('class="line"', panel)) == 2
    assert "of each dataset" not in learning({"run": errors(0.1, 0.09)})
    both = learning({"run": metrics, "other": metrics})
    assert both.count("Held-out action error of each dataset</b> <span>other, %") == 1


def test_the_page_of_a_training_says_what_was_chosen(tmp_path):
    write_training_page(tmp_path / "page.html", "run", errors(0.1, 0.09), [("steps=100", "60 passes & more")])
    text = (tmp_path / "page.html").read_text()
    assert "<dt>steps=100</dt><dd>60 passes &amp; more</dd>" in text
    write_training_page(tmp_path / "page.html", "run", [])
    assert "Chosen from the data" not in (tmp_path / "page.html").read_text()
