"""Text of models and files as text: nothing in it may move, hide or reorder what stands around it."""

KEPT = "\n\t"


def visible(text: str) -> str:
    """Control characters, direction marks and lone surrogates in the form that Python writes them."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character in KEPT or character.isspace()
        else _named(character)
        for character in text.replace("\r\n", "\n")
    )


def one_line(text: str) -> str:
    return " ".join(visible(text).split())


def _named(character: str) -> str:
    return ascii(character)[1:-1]
