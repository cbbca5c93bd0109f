"""A tokenizer of this library as the files that transformers reads: `tokenizer.json` in the form of the tokenizers library.

The ids are the same, and so is the text they stand for; only where SentencePiece finds two ways to cut a text as probable as each other,
the two libraries may take different ones. Ours lies beside it, in a folder of its own, from which `load` takes it.

References:
    The form: https://huggingface.co/docs/tokenizers.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from keras_lm.byte_pairs import byte_letters
from keras_lm.pretrained.checkpoint import write_json
from keras_lm.subwords import WORDS
from keras_lm.tokenizer_base import NUM_SPECIAL, REPLACEMENT, Tokenizer
from keras_lm.word_pieces import LONGEST_WORD

OURS = "keras_lm_tokenizer"
"""The folder with the tokenizer as `Tokenizer.save` writes it."""

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
"""What the ids 0 to 3 are called."""

_FUSE = {"type": "Fuse"}
_SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": False}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def save_tokenizer(tokenizer: Tokenizer, folder: pathlib.Path, documents: bool, context_length: int) -> str:
    """Writes `tokenizer.json` and `tokenizer_config.json`, and the tokenizer as it is into `keras_lm_tokenizer/`.

    Args:
        tokenizer: Any tokenizer.
        folder: Where the files go.
        documents: Whether a start token stands in front of each text.
        context_length: The longest text, in tokens, that the model reads.

    Returns:
        Empty, or a line that says that there is no form for this kind of tokenizer.
    """
    tokenizer.save(folder / OURS)
    if tokenizer.kind not in _FORMS:
        return f"transformers has no form for the {tokenizer.kind} tokenizer: {folder.name} holds it in {OURS}/ alone"
    description = json.loads((folder / OURS / "tokenizer.json").read_text(encoding="utf-8"))
    names = description["vocabulary"] if "special" in description else SPECIAL
    start = _start(names[tokenizer.start_id], tokenizer.start_id) if documents else None
    form = {**_COMMON, "post_processor": start, **_FORMS[tokenizer.kind](description, folder / OURS)}
    write_json(folder / "tokenizer.json", form)
    own = dict(zip(("pad", "unk", "bos", "eos"), SPECIAL, strict=True))
    roles = _names_of(tokenizer.kind, description) if "special" in description else own
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{f"{role}_token": name for role, name in roles.items()},
            "model_max_length": context_length,
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # the names of special tokens in a text are text, as here
        },
    )
    return ""


def _characters(description: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    return {
        "pre_tokenizer": _split(r"[\s\S]", "Isolated"),
        "model": {"type": "WordLevel", "vocab": _numbered(description["vocabulary"]), "unk_token": SPECIAL[1]},
        "decoder": _FUSE,
    }


def _bytes(description: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    return {
        "pre_tokenizer": _BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": _numbered(byte_letters()), "merges": []},
        "decoder": _BYTE_LEVEL,
    }


def _word_pieces(description: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    # RE2 and Oniguruma write «any character» in two ways, and RE2's white space is that of ASCII.
    words = WORDS.replace("(?s:.)", r"[\s\S]").replace(r"[^\s", r"[^\t\n\f\r ")
    return {
        "normalizer": _replace({"Regex": "[\\x00▁]"}, REPLACEMENT),
        "pre_tokenizer": _sequence("pretokenizers", _split(words, "Isolated"), _SPACES),
        "model": {
            "type": "WordPiece",
            "vocab": _numbered(description["vocabulary"]),
            "unk_token": SPECIAL[1],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 1 << 20,
        },
        "decoder": _sequence("decoders", _replace({"Regex": "^##"}, ""), _replace({"String": "▁"}, " "), _FUSE),
    }


def _unigrams(description: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    import sentencepiece

    sentencepiece.set_min_log_level(2)  # it tells of each model that it changes no text
    model = sentencepiece.SentencePieceProcessor(model_proto=(folder / description["model"]).read_bytes())
    pieces = [[model.id_to_piece(token), model.get_score(token)] for token in range(NUM_SPECIAL, model.vocab_size())]
    return {
        # A piece that stands for a byte or for a special token would be found where a text has its name: a cut in the name prevents that.
        "pre_tokenizer": _sequence("pretokenizers", _SPACES, _split("<(?=pad>|unk>|/?s>|0x[0-9A-F]{2}>)", "MergedWithPrevious")),
        "model": {"type": "Unigram", "unk_id": 1, "vocab": [*([name, 0.0] for name in SPECIAL), *pieces], "byte_fallback": True},
        "decoder": _sequence("decoders", _replace({"String": "▁"}, " "), {"type": "ByteFallback"}, _FUSE),
    }


def _byte_pairs(description: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    vocabulary = {name: number for number, name in enumerate(description["vocabulary"])}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "added_tokens": _added(description),
        "pre_tokenizer": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": description["merges"]},
        "decoder": byte_level,
    }


def _bert_pieces(description: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    names = _names_of("bert", description)
    return {
        "added_tokens": _added(description),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": description["clean"],
            "handle_chinese_chars": description["ideographs"],
            "strip_accents": description["strip_accents"],
            "lowercase": description["lowercase"],
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "vocab": {name: number for number, name in enumerate(description["vocabulary"])},
            "unk_token": names["unk"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": LONGEST_WORD,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "post_processor": {
            "type": "BertProcessing",
            "sep": [names["sep"], description["special"]["end"]],
            "cls": [names["cls"], description["special"]["start"]],
        },
    }


_ROLES = {
    "gpt2": {"pad": "pad", "unknown": "unk", "start": "bos", "end": "eos"},
    "bert": {"pad": "pad", "unknown": "unk", "start": "cls", "end": "sep", "mask": "mask"},
}
"""What transformers calls the special tokens of a tokenizer that came with a checkpoint."""


def _names_of(kind: str, description: dict[str, Any]) -> dict[str, str]:
    return {
        role: description["vocabulary"][description["special"][name]]
        for name, role in _ROLES[kind].items()
        if name in description["special"]
    }


def _added(description: dict[str, Any]) -> list[dict[str, Any]]:
    return [_token(number, description["vocabulary"][number]) for number in sorted(set(description["special"].values()))]


_FORMS: dict[str, Callable[[dict[str, Any], pathlib.Path], dict[str, Any]]] = {
    "char": _characters,
    "byte": _bytes,
    "wordpiece": _word_pieces,
    "sentencepiece": _unigrams,
    "word": _unigrams,
    "gpt2": _byte_pairs,
    "bert": _bert_pieces,
}


def _token(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


_COMMON = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [_token(number, name) for number, name in enumerate(SPECIAL)],
    "normalizer": None,
}


def _numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate([*SPECIAL, *pieces])}


def _sequence(field: str, *steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", field: list(steps)}


def _split(pattern: str, behavior: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _start(name: str, number: int) -> dict[str, Any]:
    """What puts the start token in front of each text."""
    begin = {"SpecialToken": {"id": name, "type_id": 0}}
    text = lambda which: {"Sequence": {"id": which, "type_id": 0}}
    special = {name: {"id": name, "ids": [number], "tokens": [name]}}
    return {"type": "TemplateProcessing", "single": [begin, text("A")], "pair": [begin, text("A"), text("B")], "special_tokens": special}
