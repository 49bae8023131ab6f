"""Text from tokens as they arrive: the same, however the bytes are cut."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_tokenizer import make_model

from samosa_jax.data.tokenizer import SentencePieceTokenizer, Tokenizer
from samosa_jax.rollout.text_stream import TextStream

ALPHABET = "ab é✓🙂\n"
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return SentencePieceTokenizer(make_model())


def streamed(parts: list[bytes], stop: list[str]) -> tuple[str, list[int]]:
    """All text, and all sources, which are the numbers of the parts."""
    stream: TextStream[int] = TextStream(stop)
    found = [stream.push(part, number) for number, part in enumerate(parts)]
    found.append(stream.flush())
    assert stream.flush() == ("", ())
    return "".join(piece.text for piece in found), [i for piece in found for i in piece.sources]


def cut_at_stop(text: str, stop: list[str]) -> str:
    """By definition: up to the stop string that is complete first, the longest of those."""
    for end in range(1, len(text) + 1):
        starts = [end - len(string) for string in stop if text[:end].endswith(string)]
        if starts:
            return text[: min(starts)]
    return text


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(borders)]


@given(
    data=st.binary(max_size=30) | st.text(max_size=12).map(str.encode), places=st.lists(st.integers(0, 30))
)
@example(data=b"\xf0\x9f\x99", places=[1, 2])
@example(data=b"\xe2\x82A\xed\xa0\x80", places=[1, 2, 4])
def test_any_cut_of_any_bytes_reads_as_the_whole(data: bytes, places: list[int]) -> None:
    text, _ = streamed(cut(data, places), [])
    assert text == data.decode("utf-8", "replace")


@given(text=st.text(ALPHABET, max_size=20), places=st.lists(st.integers(0, 60)), stop=STOPS)
@example(text="xabcb", places=[1, 2, 3], stop=["abc", "b"])
@example(text="aab", places=[1, 2], stop=["ab"])
def test_stop_strings_cut_at_the_same_place_however_the_text_arrives(
    text: str, places: list[int], stop: list[str]
) -> None:
    found, _ = streamed(cut(text.encode(), places), stop)
    assert found == cut_at_stop(text, stop)


@given(text=st.text(ALPHABET, max_size=20), places=st.lists(st.integers(0, 60)), stop=STOPS)
def test_all_is_given_out_but_what_may_become_a_stop_string(
    text: str, places: list[int], stop: list[str]
) -> None:
    stream: TextStream[int] = TextStream(stop)
    given, arrived = "", b""
    for number, part in enumerate(cut(text.encode(), places)):
        given += stream.push(part, number).text
        arrived += part
        if stream.has_stopped:
            break
        whole = arrived.decode("utf-8", "ignore")  # but for a character that is not complete
        beginnings = [string[:n] for string in stop for n in range(1, len(string))]
        held = max((len(beginning) for beginning in beginnings if whole.endswith(beginning)), default=0)
        assert given == whole[: len(whole) - held]


@given(data=st.binary(max_size=30), places=st.lists(st.integers(0, 30)))
def test_every_source_comes_back_once_in_order(data: bytes, places: list[int]) -> None:
    parts = cut(data, places)
    assert streamed(parts, [])[1] == list(range(len(parts)))


@given(text=st.text(ALPHABET, max_size=20), places=st.lists(st.integers(0, 60)), stop=STOPS)
def test_sources_are_those_of_the_text_that_is_left(text: str, places: list[int], stop: list[str]) -> None:
    parts = cut(text.encode(), places)
    found, sources = streamed(parts, stop)
    num_bytes = len(found.encode())
    starts = [0, *itertools.accumulate(map(len, parts))]
    assert sources == [i for i, start in enumerate(starts[:-1]) if start < num_bytes]


@given(text=st.text(max_size=40), stop=st.lists(st.text(min_size=1, max_size=3), max_size=2))
def test_tokens_of_any_text(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    ids = tokenizer.encode(text)
    assert streamed([tokenizer.decode_bytes([i]) for i in ids], []) == (
        tokenizer.decode(ids),
        list(range(len(ids))),
    )
    found, _ = streamed([tokenizer.decode_bytes([i]) for i in ids], stop)
    assert found == cut_at_stop(tokenizer.decode(ids), stop)


def test_text_is_given_out_as_soon_as_it_is_certain() -> None:
    stream: TextStream[int] = TextStream(["END"])
    assert stream.push(b"one E", 0) == ("one ", (0,))
    assert stream.push(b"N", 1) == ("", ())
    assert stream.push(b"d", 2) == ("ENd", (1, 2))
    assert stream.push("é".encode()[:1], 3) == ("", ())
    assert stream.push("é".encode()[1:] + b"EN", 4) == ("é", (3, 4))
    assert stream.push(b"D more", 5) == ("", ())
    assert stream.has_stopped
    assert stream.push(b"x", 6) == ("", ())


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="stop string is empty"):
        TextStream(["a", ""])
