"""The tokenizers that transformers saves beside a model, read from `tokenizer.json` or from the older files.

Read are GPT-2's byte pairs and BERT's WordPiece, each exactly as these models have it: a setting that asks for something else is refused
by name, since other ids would come of it.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from keras_lm.byte_pairs import BytePairTokenizer
from keras_lm.errors import UserError
from keras_lm.tokenizers import Tokenizer
from keras_lm.word_pieces import LONGEST_WORD, BertTokenizer

_JSON, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_FILES = (_JSON, "vocab.json", "vocab.txt", "tokenizer.model")
_GPT2_NAMES = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_BERT_NAMES = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"}


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer that transformers wrote into `folder`.

    Args:
        folder: Holds `tokenizer.json`, or `vocab.json` and `merges.txt` (GPT-2), or `vocab.txt` (BERT); and `tokenizer_config.json`, whose
            names of special tokens are taken.

    Raises:
        UserError: no tokenizer there, a damaged one, or one of another kind; the message names what is different.
    """
    folder = pathlib.Path(folder)
    config = {**_read(folder / "special_tokens_map.json"), **_read(folder / _CONFIG)}
    try:
        if (folder / _JSON).is_file():
            return _from_json(_read(folder / _JSON), config)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
            merges = [line for line in lines if line and not line.startswith("#version")]
            return _byte_pairs(_read(folder / "vocab.json"), merges, _added(config), config)
        if (folder / "vocab.txt").is_file():
            names = (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
            vocabulary = {name.removesuffix("\r"): number for number, name in enumerate(names)}
            settings = {"clean_text": True, "handle_chinese_chars": config.get("tokenize_chinese_chars", True)}
            settings |= {"lowercase": config.get("do_lower_case", True), "strip_accents": config.get("strip_accents")}
            return _word_pieces(vocabulary, settings, _added(config), config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{folder}: the vocabulary is not UTF-8: {error}") from None
    other = next((name for name in _FILES if (folder / name).is_file()), None)
    if other is None:
        raise UserError(f"{folder} holds no tokenizer ({', '.join(_FILES)})")
    what = "vocab.json without merges.txt" if other == "vocab.json" else f"{other}, a SentencePiece model of another library"
    raise UserError(f"{folder} holds {what}, which is not read: give a tokenizer of this library")


def _from_json(description: dict[str, Any], config: dict[str, Any]) -> Tokenizer:
    model = description.get("model") or {}
    added = {token["id"]: token for token in description.get("added_tokens") or ()}
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    if kind == "BPE":
        _expect(description, "normalizer", (None,))
        _expect(description.get("pre_tokenizer") or {}, "type", ("ByteLevel",), "pre_tokenizer.type")
        _expect(description["pre_tokenizer"], "add_prefix_space", (False,), "pre_tokenizer.add_prefix_space")
        _expect(description["pre_tokenizer"], "use_regex", (True, None), "pre_tokenizer.use_regex")
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
            _expect(model, name, (None, "", False), f"model.{name}")
        merges = [line if isinstance(line, str) else " ".join(line) for line in model["merges"]]
        return _byte_pairs(model["vocab"], merges, added, config)
    if kind == "WordPiece":
        normalizer = description.get("normalizer") or {}
        _expect(normalizer, "type", ("BertNormalizer",), "normalizer.type")
        _expect(description.get("pre_tokenizer") or {}, "type", ("BertPreTokenizer",), "pre_tokenizer.type")
        _expect(model, "continuing_subword_prefix", ("##",), "model.continuing_subword_prefix")
        _expect(model, "max_input_chars_per_word", (LONGEST_WORD,), "model.max_input_chars_per_word")
        return _word_pieces(model["vocab"], normalizer, added, config)
    raise UserError(f"{_JSON} is of the kind {kind}: GPT-2's byte pairs and BERT's WordPiece are read")


def _byte_pairs(
    vocabulary: Mapping[str, int], merges: Iterable[str], added: Mapping[int, Mapping[str, Any]], config: dict[str, Any]
) -> BytePairTokenizer:
    if config.get("add_prefix_space"):
        raise UserError("add_prefix_space is not supported: set it to false, and write the space into the text")
    pairs = []
    for number, line in enumerate(merges, start=1):
        parts = line.split(" ")
        if len(parts) != 2:
            raise UserError(f"merge {number} is {line!r}: it should be two names with a space between")
        pairs.append(tuple(parts))
    names = _names(vocabulary, added)
    roles = {"start": "bos_token", "end": "eos_token", "unknown": "unk_token"}
    special = _special(names, added, {role: _name(config, key, _GPT2_NAMES) for role, key in roles.items()})
    pad = _name(config, "pad_token", {})
    special |= _special(names, {}, {"pad": pad}) if pad else {"pad": special["end"]}
    return BytePairTokenizer(names, pairs, special)


def _word_pieces(
    vocabulary: Mapping[str, int], settings: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]], config: dict[str, Any]
) -> BertTokenizer:
    names = _names(vocabulary, added)
    roles = {"start": "cls_token", "end": "sep_token", "unknown": "unk_token", "pad": "pad_token"}
    special = _special(names, added, {role: _name(config, key, _BERT_NAMES) for role, key in roles.items()})
    mask = _name(config, "mask_token", _BERT_NAMES)
    if mask in names:
        special["mask"] = names.index(mask)
    return BertTokenizer(
        names,
        special,
        lowercase=settings.get("lowercase", True),
        strip_accents=settings.get("strip_accents"),
        ideographs=settings.get("handle_chinese_chars", True),
        clean=settings.get("clean_text", True),
    )


def _names(vocabulary: Mapping[str, int], added: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """The name of each id."""
    by_id = {number: name for name, number in vocabulary.items()} | {number: token["content"] for number, token in added.items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise UserError("the ids of the vocabulary are not the numbers from 0 on, each once")
    return [by_id[number] for number in range(len(by_id))]


def _special(names: list[str], added: Mapping[int, Mapping[str, Any]], roles: Mapping[str, str]) -> dict[str, int]:
    place = {name: number for number, name in enumerate(names)}
    for role, name in roles.items():
        if name not in place:
            raise UserError(f"the vocabulary has no {name!r}, the {role} token")
    plain = next((token["content"] for token in added.values() if not token.get("special", True)), None)
    if plain is not None:
        raise UserError(f"the added token {plain!r} is not a special one: a vocabulary with such tokens is not read")
    return {token["content"]: number for number, token in added.items()} | {role: place[name] for role, name in roles.items()}


def _added(config: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {int(number): token for number, token in (config.get("added_tokens_decoder") or {}).items()}


def _name(config: Mapping[str, Any], key: str, defaults: Mapping[str, str]) -> str | None:
    """A special token as the configuration has it: its name, or its name among other things."""
    value = config.get(key) or defaults.get(key)
    return value["content"] if isinstance(value, dict) else value


def _expect(settings: Mapping[str, Any], name: str, allowed: tuple, shown: str | None = None) -> None:
    if (value := settings.get(name)) not in allowed:
        raise UserError(f"{_JSON} has {shown or name} {value!r}, which is not read: it should be {allowed[0]!r}")


def _read(path: pathlib.Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged: it should hold names and values")
    return value
