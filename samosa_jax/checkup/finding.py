"""What one look at the machine has found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["fine", "note", "wrong"]  # a note is no fault: something that is not there and need not be


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the checkup.

    Attributes:
        subject: what was looked at.
        found: in words.
        mend: what to do about it; only where it is not fine.
    """

    subject: str
    state: State
    found: str
    mend: str = ""


def fine(subject: str, found: str) -> Finding:
    return Finding(subject=subject, state="fine", found=found)


def note(subject: str, found: str, mend: str = "") -> Finding:
    return Finding(subject=subject, state="note", found=found, mend=mend)


def wrong(subject: str, found: str, mend: str) -> Finding:
    return Finding(subject=subject, state="wrong", found=found, mend=mend)
