"""Accuracy: one answer is right, and only that one."""

import pytest
from toksweep.harness.contracts import Memo, Output, Sample
from toksweep.metrics.accuracy import Accuracy


def score(said: str, *answers: str) -> float:
    sample = Sample("s", "c", (), "f", "What?", answers, slices={"question": "colour"})
    (item,) = Accuracy().score(Output(text=said), sample, Memo())
    assert item.slices == {"question": "colour"}
    return item.value


@pytest.mark.parametrize("said", ["red", "Red", " red ", "red.", "RED ."])
def test_case_outer_space_and_a_full_stop_do_not_matter(said: str) -> None:
    assert score(said, "red") == 1.0


@pytest.mark.parametrize("said", ["", "dark red", "red blue", "re d", "blue"])
def test_anything_else_is_wrong(said: str | None) -> None:
    assert score(said, "red") == 0.0


def test_an_output_that_is_no_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="no text"):
        Accuracy().score(Output(), Sample("s", "c", (), "f"), Memo())


def test_any_of_the_right_answers_will_do() -> None:
    assert score("grey", "gray", "grey") == 1.0


def test_a_failure_is_counted_on_the_items_that_a_score_would_have() -> None:
    sample = Sample("s", "c", (), "f", "What?", ("red",), slices={"question": "colour"})
    assert Accuracy().items(sample) == [i.slices for i in Accuracy().score(Output(text="x"), sample, Memo())]
