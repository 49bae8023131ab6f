"""What the calculator computes with: bounded exact numbers, powers and roots, the table of its functions.

Numbers are fractions of at most MAX_BITS. What has no exact value, or one that is too long to write, is
rounded to 40 digits. Rates are in percent per year throughout: 5 means 5%.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow, Underflow, localcontext
from fractions import Fraction
from functools import cached_property

MAX_BITS = 4096  # of a numerator or denominator
MAX_ROUND_DIGITS = 100
_MAX_DIGITS = MAX_BITS * 3 // 10

# Ten digits more than are kept, so that what is exact after all (log(8, 2)) comes out so.
_IRRATIONAL = Context(
    prec=50,
    Emin=-1300,  # a little more than MAX_BITS hold
    Emax=1300,
    traps=[DivisionByZero, InvalidOperation, Overflow, Underflow],
)
_KEPT = Context(prec=40)


class CalculatorError(ValueError):
    """What is wrong with an expression, in a few words that a model or a person can act on."""


def bounded(value: Fraction) -> Fraction:
    """The value itself. Raises CalculatorError if it has more digits than a number may have."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise CalculatorError(f"the result is too large; numbers may have about {_MAX_DIGITS} digits")
    return value


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """base ** exponent: exact where the exponent is whole and the result fits, else to 40 digits.

    Raises:
      CalculatorError: 0 to a negative power, a negative number to a fractional one, a result that is too
        large or too close to 0.
    """
    if base == 0 and exponent < 0:
        raise CalculatorError("division by zero")
    if exponent.denominator != 1:
        if base < 0:
            raise CalculatorError("a negative number has no real power with a fractional exponent")
        return _irrational(Decimal.__pow__, base, exponent)
    if base in (0, 1, -1):
        return base ** (0 if exponent == 0 else 2 - exponent.numerator % 2)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if (bits - 1 or 1) * abs(exponent) <= MAX_BITS:
        value = base**exponent.numerator
        if max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS:
            return value
    value = _irrational(Decimal.__pow__, abs(base), exponent)
    return -value if base < 0 and exponent.numerator % 2 else value


def _irrational(compute: Callable[..., Decimal], *operands: Fraction) -> Fraction:
    """`compute` on decimals of 50 digits, its result rounded to 40."""
    try:
        with localcontext(_IRRATIONAL):
            result = compute(*(Decimal(x.numerator) / Decimal(x.denominator) for x in operands))
        return bounded(Fraction(_KEPT.plus(result)))
    except (InvalidOperation, Overflow, Underflow):
        raise CalculatorError("the result is too large or too close to zero") from None


def _sqrt(x: Fraction) -> Fraction:
    if x < 0:
        raise CalculatorError("a negative number has no real square root")
    root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
    return root if root * root == x else _irrational(Decimal.sqrt, x)


def _exp(x: Fraction) -> Fraction:
    return Fraction(1) if x == 0 else _irrational(Decimal.exp, x)


def _log(x: Fraction, base: Fraction | None = None) -> Fraction:
    if x <= 0:
        raise CalculatorError("only numbers above zero have a logarithm")
    if base is not None and (base <= 0 or base == 1):
        raise CalculatorError("the base of a logarithm is above zero and not 1")
    if base is None:
        return _irrational(Decimal.ln, x)
    return _irrational(lambda x, base: x.ln() / base.ln(), x, base)


def _log10(x: Fraction) -> Fraction:
    if x <= 0:
        raise CalculatorError("only numbers above zero have a logarithm")
    return _irrational(Decimal.log10, x)


def _round(x: Fraction, digits: Fraction = Fraction(0)) -> Fraction:
    if digits.denominator != 1 or abs(digits) > MAX_ROUND_DIGITS:
        raise CalculatorError(f"round takes a whole number of digits, at most {MAX_ROUND_DIGITS}")
    scale = Fraction(10) ** int(digits)
    rounded = Fraction(math.floor(abs(x) * scale + Fraction(1, 2))) / scale
    return -rounded if x < 0 else rounded


def _grown(amount: Fraction, rate: Fraction, years: Fraction, times: Fraction = Fraction(1)) -> Fraction:
    """An amount with compound interest; a negative number of years discounts it."""
    if times <= 0:
        raise CalculatorError("times_per_year should be above zero")
    return amount * power(1 + rate / 100 / times, times * years)


def _cagr(start: Fraction, end: Fraction, years: Fraction) -> Fraction:
    if start <= 0 or end < 0 or years <= 0:
        raise CalculatorError("cagr takes a start above zero, an end not below it and years above zero")
    return (power(end / start, 1 / years) - 1) * 100


def _loan_payment(principal: Fraction, annual_rate: Fraction, months: Fraction) -> Fraction:
    if months <= 0:
        raise CalculatorError("loan_payment takes a number of months above zero")
    rate = annual_rate / 1200
    return principal / months if rate == 0 else principal * rate / (1 - power(1 + rate, -months))


@dataclass(frozen=True)
class Function:
    """A function of the calculator.

    Attributes:
      signature: `name(argument, argument[, optional])`; `...` takes any number of arguments.
      formula: what it gives.
      compute: from as many fractions as the signature allows. May raise ZeroDivisionError.
    """

    signature: str
    formula: str
    compute: Callable[..., Fraction]

    @cached_property
    def name(self) -> str:
        return self.signature.partition("(")[0]

    def __call__(self, arguments: list[Fraction]) -> Fraction:
        """Raises CalculatorError for a wrong number of arguments and for those without a result."""
        required, _, optional = self.signature.partition("[")
        fewest = len(re.findall(r"\w+", required)) - 1
        most = fewest + len(re.findall(r"\w+", optional))
        if len(arguments) < fewest or (len(arguments) > most and "..." not in required):
            raise CalculatorError(
                f"{self.signature} was given {len(arguments)} arguments; "
                "inside a function a comma separates arguments, not thousands"
            )
        try:
            return bounded(self.compute(*arguments))
        except ZeroDivisionError:
            raise CalculatorError(f"division by zero in {self.signature}") from None


FUNCTIONS = {
    function.name: function
    for function in (
        Function("sqrt(x)", "the square root, exact where it is a fraction", _sqrt),
        Function("abs(x)", "x without its sign", lambda x: abs(x)),
        Function("min(x, ...)", "the smallest", lambda *values: min(values)),
        Function("max(x, ...)", "the largest", lambda *values: max(values)),
        Function("round(x[, digits])", "to so many decimals (0), halves away from zero", _round),
        Function("floor(x)", "the largest whole number not above x", lambda x: Fraction(math.floor(x))),
        Function("ceil(x)", "the smallest whole number not below x", lambda x: Fraction(math.ceil(x))),
        Function("log(x[, base])", "the logarithm, natural without a base", _log),
        Function("log10(x)", "the logarithm to base 10", _log10),
        Function("exp(x)", "e ** x", _exp),
        Function("percent(part, whole)", "part / whole * 100", lambda part, whole: part / whole * 100),
        Function(
            "percent_change(old, new)", "(new - old) / old * 100", lambda old, new: (new - old) / old * 100
        ),
        Function(
            "tip(amount, percent)", "amount * percent / 100", lambda amount, percent: amount * percent / 100
        ),
        Function(
            "simple_interest(principal, rate, years)",
            "principal * rate / 100 * years, the interest alone",
            lambda principal, rate, years: principal * rate / 100 * years,
        ),
        Function(
            "compound_interest(principal, rate, years[, times_per_year])",
            "principal * (1 + rate / 100 / n) ** (n * years), the final amount; n is 1 if not given",
            _grown,
        ),
        Function("cagr(start, end, years)", "((end / start) ** (1 / years) - 1) * 100", _cagr),
        Function(
            "loan_payment(principal, annual_rate, months)",
            "principal * r / (1 - (1 + r) ** -months) per month, r = annual_rate / 1200",
            _loan_payment,
        ),
        Function(
            "present_value(future, rate, years[, times_per_year])",
            "future / (1 + rate / 100 / n) ** (n * years); n is 1 if not given",
            lambda future, rate, years, *times: _grown(future, rate, -years, *times),
        ),
        Function(
            "future_value(present, rate, years[, times_per_year])",
            "present * (1 + rate / 100 / n) ** (n * years); n is 1 if not given",
            _grown,
        ),
    )
}
