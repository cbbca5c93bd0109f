"""Names for the ids of a tokenizer, without white space and none twice: what files of n-grams and of vectors call them."""

from __future__ import annotations

from keras_lm.tokenizer_base import Tokenizer

PAD, UNKNOWN, START, END = "<pad>", "<unk>", "<s>", "</s>"
_SPACE = "\\x20"


def token_names(tokenizer: Tokenizer) -> list[str]:
    """A name for each id, without white space and no name twice: the token's text, what could not stand in a file escaped as in Python.

    Example:

    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> token_names(CharacterTokenizer(["中", " ", "\\\\"]))
    ['<pad>', '<unk>', '<s>', '</s>', '中', '\\\\x20', '\\\\\\\\']
    """
    names = [_name(piece) for piece in tokenizer.pieces()]
    for number, name in ((tokenizer.pad_id, PAD), (tokenizer.unknown_id, UNKNOWN), (tokenizer.start_id, START), (tokenizer.end_id, END)):
        names[number] = name
    taken = set()
    for number, name in enumerate(names):
        if name in taken or not name:  # sub-words: two pieces may write the same
            names[number] = f"{name}\\#{number}"
        taken.add(names[number])
    return names


def _name(piece: bytes) -> str:
    text = piece.decode("utf-8", errors="surrogateescape")
    escape = lambda character: "\\\\" if character == "\\" else "".join(f"\\x{value:02x}" for value in _bytes(character))
    escaped = "".join(
        escape(character) if character == "\\" or not character.isprintable() or character.isspace() else character for character in text
    )
    return f"\\x3c{escaped[1:]}" if escaped in (PAD, UNKNOWN, START, END) else escaped


def _bytes(character: str) -> bytes:
    return character.encode("utf-8", errors="surrogateescape")


def word_names(tokenizer: Tokenizer) -> list[str]:
    """As `token_names`, but a word that carries the space before it is called as if it did not: `the` for ` the`, as vectors of words are.

    Example:

    >>> from keras_lm.tokenizers import WordTokenizer
    >>> word_names(WordTokenizer.fit(["it is as it is"]))[4:8]
    ['is', 'as', 'it', 'it\\\\#7']
    """
    names, taken = token_names(tokenizer), set()
    for number, name in enumerate(names):
        plain = name.removeprefix(_SPACE) or name
        if plain in taken:  # `it` and ` it`: the first, which is the more frequent, has the plain name
            plain = name if name not in taken else f"{name}\\#{number}"
        names[number] = plain
        taken.add(plain)
    return names
