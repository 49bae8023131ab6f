"""Exact arithmetic on text: a grammar and rational numbers, never Python's `eval`.

    expression = term {("+" | "-") term}
    term       = sign {("*" | "/" | "//" | "%") sign}
    sign       = {"+" | "-"} power
    power      = percent ["**" sign]
    percent    = atom {"%"}             where no operand follows: 17% is 17/100, 17 % 5 is a remainder
    atom       = number | "(" expression ")"

Numbers may hold thousands separators (1,250.5). The signs of print (x between numbers, the multiplication and
division signs, the minus sign, ^) are read as * / - and **.
"""

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation, Overflow
from fractions import Fraction

MAX_CHARS = 500
MAX_DEPTH = 60  # of brackets, signs and powers inside one another
MAX_BITS = 4096  # of a numerator or denominator
SIGNIFICANT_DIGITS = 12

_TOKEN = re.compile(r"\s*(?:(\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)|(\*\*|//|[-+*/%()])|(\S))")
_PRINTED = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})
_IRRATIONAL = Context(prec=40)


class CalculatorError(ValueError):
    """What is wrong with an expression, in a few words that a model or a person can act on."""


def calculate(expression: str) -> str:
    """The value as a calculator shows it. Raises CalculatorError."""
    return show(evaluate(expression))


def evaluate(expression: str) -> Fraction:
    """The exact value; powers with a fractional exponent alone are rounded, to 40 digits.

    Raises:
      CalculatorError: bad syntax (with the place), division by zero, a result that is not real or too large.
    """
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


class _Parser:
    """Recursive descent over tokens; each method consumes what its name says and gives its value."""

    def __init__(self, text: str) -> None:
        text = text.translate(_PRINTED).replace("^", "**")
        text = re.sub(r"(?<=[\d)\s])[xX](?=[\s(\d.-])", "*", text)
        # (token, place), and an empty one at the end
        self._tokens: list[tuple[str, int]] = []
        for match in _TOKEN.finditer(text):
            number, operator, unknown = match.groups()
            if unknown:
                raise CalculatorError(
                    f"{unknown!r} at character {match.start(3) + 1} is not arithmetic; "
                    "use numbers, + - * / // % ** and brackets"
                )
            self._tokens.append((number or operator, match.start(1 if number else 2)))
        self._tokens.append(("", len(text)))
        self._next = 0
        self._depth = 0

    def parse(self) -> Fraction:
        if not self._peek():
            raise CalculatorError("the expression is empty")
        value = self._expression()
        if self._peek():
            raise self._unexpected("an operator")
        return value

    def _peek(self) -> str:
        return self._tokens[self._next][0]

    def _take(self, *wanted: str) -> str:
        token = self._tokens[self._next][0]
        if not token or token not in wanted:
            return ""
        self._next += 1
        return token

    def _unexpected(self, expected: str) -> CalculatorError:
        token, start = self._tokens[self._next]
        if not token:
            return CalculatorError(f"the expression ends where {expected} should follow")
        return CalculatorError(f"{token!r} at character {start + 1} stands where {expected} should be")

    def _expression(self) -> Fraction:
        value = self._term()
        while operator := self._take("+", "-"):
            operand = self._term()
            value = _bounded(value + operand if operator == "+" else value - operand)
        return value

    def _term(self) -> Fraction:
        value = self._sign()
        while operator := self._take("*", "/", "//", "%"):
            operand = self._sign()
            if operator != "*" and operand == 0:
                raise CalculatorError("division by zero")
            if operator == "*":
                value = _bounded(value * operand)
            elif operator == "/":
                value = _bounded(value / operand)
            else:
                value = Fraction(value // operand) if operator == "//" else value % operand
        return value

    def _sign(self) -> Fraction:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CalculatorError(f"the expression is nested more than {MAX_DEPTH} deep")
        operator = self._take("+", "-")
        value = self._sign() if operator else self._power()
        self._depth -= 1
        return -value if operator == "-" else value

    def _power(self) -> Fraction:
        base = self._percent()
        return _power(base, self._sign()) if self._take("**") else base

    def _percent(self) -> Fraction:
        value = self._atom()
        while self._peek() == "%" and not self._operand_follows():
            self._next += 1
            value /= 100
        return value

    def _operand_follows(self) -> bool:
        """Whether an operand stands after the token at hand, which makes a % the remainder."""
        after = self._tokens[self._next + 1][0]
        return after == "(" or after[:1].isdigit() or after[:1] == "."

    def _atom(self) -> Fraction:
        token = self._peek()
        if self._take("("):
            value = self._expression()
            if not self._take(")"):
                raise self._unexpected("a closing bracket")
            return value
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise self._unexpected("a number")
        self._next += 1
        plain = token.replace(",", "").rstrip(".")
        return Fraction(int(plain) if plain.isdigit() else plain)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise CalculatorError(f"the result is too large; numbers may have about {MAX_BITS * 3 // 10} digits")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent < 0:
        raise CalculatorError("division by zero")
    if exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if base not in (0, 1, -1) and (bits - 1 or 1) * abs(exponent) > MAX_BITS:
            raise CalculatorError(
                f"the power is too large; numbers may have about {MAX_BITS * 3 // 10} digits"
            )
        return _bounded(base**exponent.numerator) if base not in (0, 1, -1) else _unit_power(base, exponent)
    if base < 0:
        raise CalculatorError("a negative number has no real power with a fractional exponent")
    try:
        root = _IRRATIONAL.power(_decimal(base), _decimal(exponent))
        return _bounded(Fraction(root))
    except (InvalidOperation, Overflow):
        raise CalculatorError("the power is too large") from None


def _unit_power(base: Fraction, exponent: Fraction) -> Fraction:
    """0, 1 or -1 to a whole power, however large."""
    if exponent == 0:
        return Fraction(1)
    return base if exponent.numerator % 2 else base * base


def _decimal(value: Fraction) -> Decimal:
    return _IRRATIONAL.divide(Decimal(value.numerator), Decimal(value.denominator))
