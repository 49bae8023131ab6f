"""Exact arithmetic on text: a grammar and rational numbers, never Python's `eval`.

    comparison = expression [("==" | "!=" | "<" | ">" | "<=" | ">=") expression]
    expression = term {("+" | "-") term}
    term       = sign {("*" | "/" | "//" | "%") sign}
    sign       = {"+" | "-"} power
    power      = percent ["**" sign]
    percent    = atom {"%"}             where no operand follows: 17% is 17/100, 17 % 5 is a remainder
    atom       = number | "(" expression ")" | name "(" expression {"," expression} ")"
               | text "." "count" "(" text ")" | "len" "(" text ")"

Names are those of `calculator_functions.FUNCTIONS`; a text stands in single or double quotes. Outside of
functions numbers may hold thousands separators (1,250.5). The signs of print (x between numbers, the
multiplication and division signs, the minus sign, ^) are read as * / - and **.
"""

import operator
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import NamedTuple

from samosa_jax.tasks.calculator_functions import FUNCTIONS, CalculatorError, bounded, power

MAX_CHARS = 500
MAX_DEPTH = 60  # of brackets, signs and powers inside one another
SIGNIFICANT_DIGITS = 12

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>"[^"]*"|'[^']*')
      | (?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)
      | (?P<operator>\*\*|//|[=!<>]=|[-+*/%()<>,.^×·÷−–≤≥≠]|(?<=[0-9)\s])[xX](?=[\s(0-9.-]))
      | (?P<name>[a-z][a-z0-9_]*)
      | (?P<unknown>\S))""",
    re.VERBOSE,
)
_PRINTED = {"×": "*", "·": "*", "x": "*", "X": "*", "÷": "/", "−": "-", "–": "-", "^": "**"}
_PRINTED |= {"≤": "<=", "≥": ">=", "≠": "!="}
_COMPARISONS: Mapping[str, Callable[[Fraction, Fraction], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}


def calculate(expression: str) -> str:
    """The value as a calculator shows it, or true or false for a comparison. Raises CalculatorError."""
    value = _parsed(expression)
    return str(value).lower() if isinstance(value, bool) else show(value)


def evaluate(expression: str) -> Fraction:
    """The exact value; what has none that can be written in MAX_BITS is rounded to 40 digits.

    Raises:
      CalculatorError: bad syntax (with the place), division by zero, a result that is not real or too large,
        a comparison.
    """
    value = _parsed(expression)
    if isinstance(value, bool):
        raise CalculatorError("a comparison has no number as its value")
    return value


def _parsed(expression: str) -> Fraction | bool:
    if len(expression) > MAX_CHARS:
        raise CalculatorError(
            f"the expression has {len(expression)} characters; at most {MAX_CHARS} are read"
        )
    return _Parser(expression).parse()


def show(value: Fraction) -> str:
    """Whole numbers in full; others to 12 significant digits and at least two decimals, less final zeros."""
    if value.denominator == 1:
        return str(value.numerator)
    whole_digits = len(str(abs(value.numerator) // value.denominator))
    context = Context(prec=max(SIGNIFICANT_DIGITS, whole_digits + 2), rounding=ROUND_HALF_EVEN, Emin=-10000)
    rounded = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    text = f"{rounded:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class _Token(NamedTuple):
    kind: str  # text, number, name, operator, or end
    text: str
    start: int


def _tokens(text: str) -> list[_Token]:
    """The tokens of an expression, and one of kind "end" after them."""
    found: list[_Token] = []
    brackets: list[bool] = []  # those that are open: whether they are a function's
    place = 0
    while match := _TOKEN.match(text, place):
        kind = match.lastgroup or ""
        token, start, place = match[kind], match.start(kind), match.end()
        if kind == "unknown":
            raise CalculatorError(_unknown(token, start))
        if kind == "number" and any(brackets):
            token = token.partition(",")[0]  # the comma separates arguments
            place = start + len(token)
        elif kind == "operator":
            token = _PRINTED.get(token, token)
            if token == "(":
                brackets.append(bool(found) and found[-1].kind == "name")
            elif token == ")" and brackets:
                brackets.pop()
        found.append(_Token(kind, token, start))
    found.append(_Token("end", "", len(text)))
    return found


def _unknown(character: str, start: int) -> str:
    if character in "\"'":
        return f"the text that begins at character {start + 1} has no closing quote"
    return (
        f"{character!r} at character {start + 1} is not arithmetic; use numbers, + - * / // % ** and brackets"
    )


class _Parser:
    """Recursive descent over tokens; each method consumes what its name says and gives its value."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    def parse(self) -> Fraction | bool:
        if self._peek().kind == "end":
            raise CalculatorError("the expression is empty")
        value = self._expression()
        if comparison := self._take(*_COMPARISONS):
            value = _COMPARISONS[comparison](value, self._expression())
        if self._peek().kind != "end":
            raise self._unexpected("an operator")
        return value

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *wanted: str) -> str:
        """The operator at hand if it is one of the wanted; otherwise "", and nothing is consumed."""
        token = self._peek()
        if token.kind != "operator" or token.text not in wanted:
            return ""
        self._next += 1
        return token.text

    def _take_kind(self, kind: str) -> str:
        token = self._peek()
        if token.kind != kind:
            return ""
        self._next += 1
        return token.text

    def _unexpected(self, expected: str) -> CalculatorError:
        kind, text, start = self._peek()
        if kind == "end":
            return CalculatorError(f"the expression ends where {expected} should follow")
        return CalculatorError(f"{text[:40]!r} at character {start + 1} stands where {expected} should be")

    def _expression(self) -> Fraction:
        value = self._term()
        while symbol := self._take("+", "-"):
            operand = self._term()
            value = bounded(value + operand if symbol == "+" else value - operand)
        return value

    def _term(self) -> Fraction:
        value = self._sign()
        while symbol := self._take("*", "/", "//", "%"):
            operand = self._sign()
            if symbol != "*" and operand == 0:
                raise CalculatorError("division by zero")
            if symbol == "*":
                value = value * operand
            elif symbol == "/":
                value = value / operand
            else:
                value = Fraction(value // operand) if symbol == "//" else value % operand
            value = bounded(value)
        return value

    def _sign(self) -> Fraction:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CalculatorError(f"the expression is nested more than {MAX_DEPTH} deep")
        symbol = self._take("+", "-")
        value = self._sign() if symbol else self._power()
        self._depth -= 1
        return -value if symbol == "-" else value

    def _power(self) -> Fraction:
        base = self._percent()
        return power(base, self._sign()) if self._take("**") else base

    def _percent(self) -> Fraction:
        value = self._atom()
        while self._peek()[:2] == ("operator", "%") and not self._operand_follows():
            self._next += 1
            value = bounded(value / 100)
        return value

    def _operand_follows(self) -> bool:
        """Whether an operand stands after the token at hand, which makes a % the remainder."""
        after = self._tokens[self._next + 1]
        return after.kind in ("number", "name", "text") or after.text == "("

    def _atom(self) -> Fraction:
        if self._take("("):
            value = self._expression()
            self._close()
            return value
        if text := self._take_kind("text"):
            return self._count(text)
        if self._peek().kind == "name":
            return self._function()
        number = self._take_kind("number")
        if not number:
            raise self._unexpected("a number")
        plain = number.replace(",", "").rstrip(".")
        return bounded(Fraction(plain))

    def _close(self) -> None:
        if not self._take(")"):
            raise self._unexpected("a closing bracket")

    def _count(self, text: str) -> Fraction:
        """Occurrences that do not overlap, letter case told apart, as in Python."""
        if not (self._take(".") and self._take_kind("name") == "count" and self._take("(")):
            raise CalculatorError('a text can only be counted in: "text".count("part") or len("text")')
        part = self._take_kind("text")[1:-1]
        if not part:
            raise CalculatorError('count takes one text in quotes, as in "text".count("t")')
        self._close()
        return Fraction(text[1:-1].count(part))

    def _function(self) -> Fraction:
        token = self._peek()
        self._next += 1
        if token.text != "len" and token.text not in FUNCTIONS:
            raise CalculatorError(
                f"{token.text[:40]!r} at character {token.start + 1} is no function; known: "
                f"{', '.join([*FUNCTIONS, 'len'])}"
            )
        if not self._take("("):
            raise self._unexpected("an opening bracket")
        if token.text == "len":
            text = self._take_kind("text")
            if not text:
                raise CalculatorError('len takes one text in quotes, as in len("text")')
            self._close()
            return Fraction(len(text) - 2)
        arguments: list[Fraction] = []
        if not self._take(")"):
            arguments.append(self._expression())
            while self._take(","):
                arguments.append(self._expression())
            self._close()
        return FUNCTIONS[token.text](arguments)
