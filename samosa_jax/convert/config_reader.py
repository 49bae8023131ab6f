"""Reads the JSON in which another program describes its network, leaving no field of it unread."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samosa_jax.errors import UserError

_NEEDED = object()


class ConfigReader:
    """Fields are taken one by one; `finish` refuses those nobody took: they could change the function."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self._values = dict(values)
        self._untaken = set(values)

    @staticmethod
    def open(path: Path) -> "ConfigReader":
        """Raises UserError if the file is missing or holds no JSON object."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); name the folder that holds it"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not valid JSON ({error}); fetch it again") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} holds no JSON object; fetch it again")
        return ConfigReader(path, values)

    def take(self, name: str, default: Any = _NEEDED) -> Any:
        """The value of a field; the default where it is absent or null, UserError without a default."""
        self._untaken.discard(name)
        value = self._values.get(name)
        if value is not None:
            return value
        if default is _NEEDED:
            raise UserError(f"{self.path} has no {name}, which the network's shape needs; fetch it again")
        return default

    def take_or_null(self, name: str, default: Any) -> Any:
        """As `take`, where null is a value of its own, which switches something off."""
        self._untaken.discard(name)
        return self._values.get(name, default)

    def number(self, name: str, default: Any = _NEEDED) -> Any:
        """As `take`, for a positive number that a float can hold."""
        value = self.take(name, default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= sys.float_info.max:
            raise UserError(f"{self.path}: {name} is {value!r}; expected a positive number")
        return value

    def whole(self, name: str, default: Any = _NEEDED) -> int:
        """As `take`, for a positive whole number."""
        value = self.number(name, default)
        if not isinstance(value, int):
            raise UserError(f"{self.path}: {name} is {value!r}; expected a positive whole number")
        return value

    def group(self, name: str, default: Any = _NEEDED) -> dict[str, Any]:
        """As `take`, for an object with fields of its own."""
        value = self.take(name, default)
        if not isinstance(value, dict):
            raise UserError(f"{self.path}: {name} is {value!r}; expected an object with fields")
        return value

    def require(self, name: str, only: Any, *, why: str) -> None:
        """Raises UserError unless a field is absent, null or the one value that can be taken over."""
        value = self.take(name, only)
        if value != only:
            raise UserError(
                f"{self.path}: {name} is {json.dumps(value)}; only {json.dumps(only)} can be imported: {why}"
            )

    def ignore(self, *names: str) -> None:
        """Takes fields that change nothing that is computed from tokens to logits."""
        self._untaken.difference_update(names)

    def finish(self) -> None:
        """Raises UserError for the first field that nobody took, unless it is switched off."""
        for name in sorted(self._untaken):
            if self._values[name] not in (None, False, [], {}):
                raise UserError(
                    f"{self.path}: the field {name} ({json.dumps(self._values[name])[:60]}) is unknown "
                    "here and may change what the network computes; if it does not, remove it from a copy of "
                    "the file"
                )
