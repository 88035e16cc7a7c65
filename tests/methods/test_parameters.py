"""What a method's parameters must be, and what is said of one that is not."""

from dataclasses import dataclass

import pytest
from toksweep.methods import parameters


@dataclass
class Given:
    value: object
    optional: object = None


@pytest.mark.parametrize(
    ("check", "fine", "wrong", "message"),
    [
        (
            lambda m: parameters.number(m, "value", least=-1, most=1),
            (-1, 0.5, 1),
            (-1.1, 2, "1", True),
            "a number from",
        ),
        (lambda m: parameters.share(m, "value"), (0, 0.99), (1, -0.1, None), "a share from 0 to below 1"),
        (lambda m: parameters.above(m, "value", least=0), (0.1, 3), (0, -1, "far"), "a number above 0"),
        (lambda m: parameters.whole(m, "value"), (1, 7), (0, 1.0, True, None), "a whole number from 1"),
        (lambda m: parameters.truth(m, "value"), (True, False), (1, "yes", None), "True or False"),
        (lambda m: parameters.one_of(m, "value", "a", "b", "c"), ("a", "c"), ("d", 1), "a, b or c"),
        (lambda m: parameters.layers(m, "value", count=3), ((1, 2, 9), [2, 3, 4]), ((1, 2), (0, 1, 2)), "three whole"),
        (lambda m: parameters.layers(m, "value"), ((1,), (3, 5)), ((), (2, 2), (3, 1), 8, ("a",)), "whole numbers"),
    ],
)
def test_a_value_is_fine_or_refused_in_words(check, fine, wrong, message):
    for value in fine:
        check(Given(value))
    for value in wrong:
        with pytest.raises(ValueError, match=f"value must be .*{message}"):
            check(Given(value))


def test_none_is_fine_where_it_is_the_default():
    parameters.whole(Given(1), "optional")
    with pytest.raises(ValueError, match="optional must be"):
        parameters.whole(Given(1, optional=0), "optional")
