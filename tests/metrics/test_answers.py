"""When an answer counts as right."""

import pytest
from toksweep.harness.contracts import Memo, Output, Sample
from toksweep.metrics.answers import AnswerF1, VqaMatch


def score(metric, said, *answers):
    sample = Sample("s", "s", (), "", "q", answers, slices={"source": "x"})
    (item,) = metric.score(Output(text=said), sample, Memo())
    assert item.slices == sample.slices == metric.items(sample)[0]
    return item.value


@pytest.mark.parametrize(("said", "answer", "value"), [
    ("Red.", "red", 1), ("num1 > num2", "num1>num2", 1), (" 14-Mar 2018", "14 MAR 2018", 1), ("Ａ１", "a1", 1),
    ("“III”", "iii", 1), ("dark red", "red", 0), ("", "red", 0), ("+", "+", 1), ("-", "+", 0), ("STRASSE", "straße", 1),
])  # fmt: skip
def test_match_ignores_case_spaces_and_punctuation_alone(said, answer, value):
    assert score(VqaMatch(), said, answer) == value


def test_any_of_the_answers_is_right():
    assert score(VqaMatch(), "two", "2", "two") == 1


@pytest.mark.parametrize(("said", "answers", "value"), [
    ("a dark red", ["red"], 0.5), ("red red", ["red"], 2 / 3), ("Blue", ["red", "blue."], 1), ("", ["red"], 0),
    ("the cat sat", ["the cat ran off"], 4 / 7),
])  # fmt: skip
def test_f1_counts_words_of_the_best_reference(said, answers, value):
    assert score(AnswerF1(), said, *answers) == pytest.approx(value)


def test_an_output_without_text_is_an_error():
    with pytest.raises(ValueError, match="has none"):
        score(VqaMatch(), None, "red")
