import hypothesis
import hypothesis.strategies as st

from keras_lm.generation.pieces import TextStream
from keras_lm.tokenizers import ByteTokenizer

BYTES = ByteTokenizer().pieces()
SMALL = st.text("ab中é", max_size=4)


def as_bytes(text: str) -> list[int]:
    return [byte + 4 for byte in text.encode()]


def cut(text: str, stop: list[str]) -> str:
    return text[: min((place for place in map(text.find, stop) if place >= 0), default=None)]


@st.composite
def fed(draw, tokens: int) -> list[list[int]]:
    return draw(st.lists(st.lists(st.integers(0, tokens - 1), max_size=4), max_size=12))


@hypothesis.settings(deadline=None)
@hypothesis.given(data=st.data(), stop=st.lists(SMALL.filter(bool), max_size=3))
def test_any_split_gives_the_whole_text_up_to_the_earliest_stop_string(data, stop):
    # Pieces that hold parts of characters, whole ones, several, and none.
    pieces = [
        b"",
        "\ufffd".encode(),
        b"",
        b"",
        b"a",
        b"b",
        b"ab",
        "中".encode(),
        b"\xe4",
        b"\xb8\xad",
        b"\xb8",
        b"\xad",
        b"\xc3",
        b"\xa9a",
        b"ba\xe4",
    ]
    groups = data.draw(fed(len(pieces)))
    stream = TextStream(pieces, stop)
    given = [stream.feed(ids) for ids in groups]
    whole = b"".join(pieces[token] for ids in groups for token in ids).decode("utf-8", "replace")
    assert "".join(given) + stream.finish() == cut(whole, stop)
    assert stream.stopped == any(string in whole for string in stop)


@hypothesis.settings(deadline=None)
@hypothesis.given(text=st.text("ab中é\n", max_size=30), stop=st.lists(SMALL.filter(bool), max_size=3))
def test_byte_by_byte(text, stop):
    stream = TextStream(BYTES, stop)
    assert "".join(stream.feed([token]) for token in as_bytes(text)) + stream.finish() == cut(text, stop)


def test_text_comes_as_soon_as_it_is_certain():
    stream = TextStream(BYTES, ["###", "\n\n"])
    assert stream.feed(as_bytes("ab#")) == "ab"
    assert stream.feed(as_bytes("#")) == ""
    assert stream.feed(as_bytes("c\n")) == "##c"
    assert stream.feed(as_bytes("d")) == "\nd"
    assert not stream.stopped
    assert stream.feed(as_bytes("e\n\nf")) == "e"
    assert stream.stopped
    assert stream.feed(as_bytes("more")) == stream.finish() == ""


def test_an_incomplete_character_waits_and_is_replaced_at_the_end():
    stream = TextStream(BYTES)
    ids = as_bytes("中")
    assert [stream.feed([token]) for token in [*ids, *ids[:2]]] == ["", "", "中", "", ""]
    assert stream.finish() == "\ufffd"


def test_what_waited_for_a_stop_string_comes_at_the_end():
    stream = TextStream(BYTES, ["END"])
    assert (stream.feed(as_bytes("the EN")), stream.finish(), stream.stopped) == ("the ", "EN", False)


def test_a_stop_string_inside_the_beginning_of_another():
    first, second = TextStream(BYTES, ["abcd", "c"]), TextStream(BYTES, ["abcd", "c"])
    assert first.feed(as_bytes("abc")) == second.feed(as_bytes("abc")) == ""
    assert (first.feed(as_bytes("d")), first.stopped) == ("", True)
    assert (second.finish(), second.stopped) == ("ab", True)
