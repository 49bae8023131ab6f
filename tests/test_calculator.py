"""The calculator: its grammar, its functions against their formulas, and what it makes of any text."""

import math
import operator
import sys
from collections.abc import Callable
from fractions import Fraction
from types import FrameType
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from samosa_jax.tasks.calculator import MAX_CHARS, CalculatorError, calculate, evaluate, show
from samosa_jax.tasks.calculator_functions import FUNCTIONS, MAX_BITS
from samosa_jax.tasks.tool_schemas import CALCULATOR_SCHEMA


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("23 * 47", "1081"),
        ("23 × 47", "1081"),
        ("23 x 47", "1081"),
        ("-2**2", "-4"),
        ("2**3**2", "512"),
        ("2 ^ -1", "0.5"),
        ("1,250.50 * 2", "2501"),
        ("17% * 45", "7.65"),
        ("17 % 5", "2"),
        ("-7 // 2", "-4"),
        ("1 / 3", "0.333333333333"),
        ("2 / 3", "0.666666666667"),
        ("0.1 + 0.2", "0.3"),
        ("10 - 4 - 3", "3"),
        ("16 / 4 / 2", "2"),
        ("2 ** 0.5", "1.41421356237"),
        ("1000 * (1 + 5 / 100)**3", "1157.625"),
        (".5 + 5.", "5.5"),
        ("- - 3", "3"),
        ("123456789012 * 3 + 0.25", "370370367036.25"),
        ("1**999999999 + (-1)**3", "0"),
        ("27 ** (1/3)", "3"),
        ("(1 + 0.065/12) ** 360", "6.99179797387"),
        ("(-1.001) ** 5001", "-148.190878999"),
        ("17 % max(2, 5)", "2"),
        ("50% * sqrt(16)", "2"),
        ("2 + 2 == 4", "true"),
        ("1/3 + 1/3 + 1/3 == 1", "true"),
        ("0.1 + 0.2 ≠ 0.3", "false"),
        ("2 ** 10 <= 1,000", "false"),
        ("3 < 4", "true"),
        ('"strawberry".count("r")', "3"),
        ("'a x b, 1,000 ^'.count(' ')", "4"),
        ('"Banana".count("an") * 2', "4"),
        ('"x" .count( "y" )', "0"),
        ('len("hello") + len(\'"\')', "6"),
    ],
)
def test_the_calculator_shows(expression: str, shown: str):
    assert calculate(expression) == shown


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("", "empty"),
        ("1 / 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("(1 + 2", "closing bracket"),
        ("1 +", "ends where a number"),
        ("1 2", "'2' at character 3"),
        ("__import__('os')", "'_' at character 1"),
        ("9**9**9", "too large"),
        ("2**99999", "too large"),
        ("(-8) ** 0.5", "no real power"),
        ("(" * 200 + "1" + ")" * 200, "nested"),
        ("1" * 501, "at most 500"),
        ("2 + 2 =", "'=' at character 7"),
        ("1 < 2 < 3", "'<' at character 7 stands where an operator"),
        ("(1 < 2)", "closing bracket"),
        ("foo(1)", "'foo' at character 1 is no function; known: sqrt, .*len"),
        ("sqrt 4", "'4' at character 6 stands where an opening bracket"),
        ("sqrt(-1)", "no real square root"),
        ("log(0)", "above zero"),
        ("log(5, 1)", "above zero and not 1"),
        ("exp(100000)", "too large"),
        ("exp(-100000)", "too close to zero"),
        ("round(2, 0.5)", "whole number of digits"),
        ("round(2, 10 ** 9)", "at most 100"),
        ("max()", r"max\(x, \.\.\.\) was given 0 arguments"),
        ("tip(1,250.50, 15)", "given 3 arguments; inside a function a comma separates"),
        ("percent(5, 0)", r"division by zero in percent\(part, whole\)"),
        ("cagr(-1, 2, 3)", "start above zero"),
        ("loan_payment(1, 2, 0)", "months above zero"),
        ("compound_interest(1, 2, 3, 0)", "times_per_year"),
        ("present_value(100, -100, 1)", "division by zero"),
        ('"abc', "begins at character 1 has no closing quote"),
        ('"abc"', "only be counted"),
        ('"abc" + 1', "only be counted"),
        ('"abc".upper()', "only be counted"),
        ('"abc".count("")', "one text in quotes"),
        ('"abc".count(1)', "one text in quotes"),
        ("len(5)", "one text in quotes"),
    ],
)
def test_the_calculator_refuses(expression: str, complaint: str):
    with pytest.raises(CalculatorError, match=complaint):
        calculate(expression)


OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@st.composite
def expressions(draw: st.DrawFn, depth: int = 4) -> tuple[str, Fraction]:
    """An expression with brackets around every step, and its value by Python's fractions."""
    if depth == 0 or draw(st.booleans()):
        cents = draw(st.integers(0, 10_000))
        return f"{cents / 100:.2f}", Fraction(cents, 100)
    (left, a), (right, b) = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
    sign = draw(st.sampled_from("+-*" if b == 0 else "+-*/"))
    return f"({left} {sign} {right})", OPERATORS[sign](a, b)


@given(expressions())
def test_the_calculator_agrees_with_fractions(drawn: tuple[str, Fraction]):
    text, value = drawn
    if len(text) <= 500:
        assert evaluate(text) == value


# Closed forms in floats, written apart from the table.
FORMULAS: list[tuple[str, Callable[[float, float, float], float]]] = [
    ("sqrt({a})", lambda a, b, c: math.sqrt(a)),
    ("log({a})", lambda a, b, c: math.log(a)),
    ("log({a}, 2)", lambda a, b, c: math.log2(a)),
    ("log10({a})", lambda a, b, c: math.log10(a)),
    ("exp({b})", lambda a, b, c: math.exp(b)),
    ("percent({a}, {b})", lambda a, b, c: 100 * a / b),
    ("percent_change({a}, {b})", lambda a, b, c: 100 * (b / a - 1)),
    ("tip({a}, {b})", lambda a, b, c: a * b / 100),
    ("simple_interest({a}, {b}, {c})", lambda a, b, c: a * b * c / 100),
    ("compound_interest({a}, {b}, {c})", lambda a, b, c: a * math.exp(c * math.log1p(b / 100))),
    ("compound_interest({a}, {b}, {c}, 12)", lambda a, b, c: a * (1 + b / 1200) ** (12 * c)),
    ("future_value({a}, {b}, {c})", lambda a, b, c: a * (1 + b / 100) ** c),
    ("future_value({a}, {b}, {c}, 4)", lambda a, b, c: a * (1 + b / 400) ** (4 * c)),
    ("present_value({a}, {b}, {c})", lambda a, b, c: a / (1 + b / 100) ** c),
    ("present_value({a}, {b}, {c}, 4)", lambda a, b, c: a / (1 + b / 400) ** (4 * c)),
    ("cagr({a}, {b}, {c})", lambda a, b, c: 100 * ((b / a) ** (1 / c) - 1)),
    (
        "loan_payment({a}, {b}, {c})",
        lambda a, b, c: a * b / 1200 * (1 + b / 1200) ** c / ((1 + b / 1200) ** c - 1),
    ),
]


@pytest.mark.parametrize(("call", "formula"), FORMULAS)
@given(a=st.decimals(1, 1_000_000, places=2), b=st.decimals("0.5", 30, places=2), c=st.integers(1, 480))
def test_functions_are_their_formulas(
    call: str, formula: Callable[[float, float, float], float], a: Any, b: Any, c: int
):
    try:
        value = evaluate(call.format(a=a, b=b, c=c))
    except CalculatorError as error:
        assume("too large" not in str(error))
        raise
    assert float(value) == pytest.approx(formula(float(a), float(b), c), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ("loan_payment(250000, 6.5, 360)", "1580.17005873"),
        ("loan_payment(1200, 0, 12)", "100"),
        ("compound_interest(1000, 5, 3)", "1157.625"),
        ("present_value(1157.625, 5, 3)", "1000"),
        ("cagr(100, 121, 2)", "10"),
        ("tip(45, 17)", "7.65"),
        ("percent_change(80, 100)", "25"),
        ("log(8, 2)", "3"),
        ("sqrt(1/4)", "0.5"),
        ("sqrt(10 ** 60) == 10 ** 30", "true"),
        ("abs(-3)", "3"),
        ("max(1,250)", "250"),
        ("max(1, 2, (1 + 2) * 3) + 1,000", "1009"),
        ("min(2, -1/3, 5) * 3", "-1"),
        ("round(2.5)", "3"),
        ("round(-2.345, 2)", "-2.35"),
        ("round(1234, -2)", "1200"),
        ("floor(-0.5)", "-1"),
        ("ceil(-0.5)", "0"),
    ],
)
def test_functions_show(call: str, shown: str):
    assert calculate(call) == shown


def test_the_schema_names_every_function():
    described = CALCULATOR_SCHEMA["function"]["parameters"]["properties"]["expression"]["description"]
    assert all(function.signature in described for function in FUNCTIONS.values())


def test_every_function_is_tested():
    with_formulas = {call.partition("(")[0] for call, _ in FORMULAS}
    assert with_formulas == set(FUNCTIONS) - {"abs", "min", "max", "round", "floor", "ceil"}


class Outcome(NamedTuple):
    value: Fraction
    complaint: str  # or ""
    operations: int  # calls, of Python and of C, that it took


def outcome_of(expression: str) -> Outcome:
    operations = 0
    value, complaint = Fraction(0), ""

    def on_event(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal operations
        operations += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        value = evaluate(expression)
    except CalculatorError as error:
        complaint = str(error)
    finally:
        sys.setprofile(before)
    return Outcome(value, complaint, operations)


words = st.sampled_from([*FUNCTIONS, "len", ".count", "99999999", "1,000", "0.001", '"aa"', "'", "**", "//"])
characters = st.sampled_from('0123456789.+-*/%()^<>=!, x"')
grammatical = st.lists(st.one_of(words, characters), max_size=120).map("".join)


@given(st.one_of(st.text(max_size=600), grammatical))
@example("9" * 200 + "**9" * 100)
@example("(" * 250 + ")" * 250)
@example("-" * 500)
@example("1%" * 250)
@example("exp(" * 40 + "9" + ")" * 40)
@example("1.0000000001**99999999999" + "*1.5" * 110)
@example("1/3" + "%0.7" * 120)
@example("max(" + "9," * 240 + "9)")
@example("log(1+0.1**60, 1+0.1**70)")
@example("\ud800²٣")
def test_any_text_gives_a_value_or_a_complaint_in_bounded_work(text: str):
    outcome = outcome_of(text)
    assert len(outcome.complaint) < 400
    assert "\n" not in outcome.complaint
    # Together these bound the time: so many operations, none on longer numbers.
    assert outcome.operations <= 60 * MAX_CHARS
    assert max(outcome.value.numerator.bit_length(), outcome.value.denominator.bit_length()) <= MAX_BITS


@given(st.text(alphabet="0123456789.+-*/%()^ ,x", max_size=30))
def test_shown_values_are_close(text: str):
    try:
        value = evaluate(text)
    except CalculatorError:
        return  # nothing but this error may come out
    # Shown values are rounded to twelve digits, relative to their size.
    assert abs(Fraction(show(value)) - value) <= abs(value) / 10**11


def test_shown_values_have_twelve_digits_and_no_trailing_zeros():
    assert show(Fraction(12345678901234567, 10**6)) == "12345678901.23"
    assert show(Fraction(10**30)) == "1" + "0" * 30
    assert show(Fraction(-5, 2)) == "-2.5"
