"""The tokenizers of checkpoints against those that they come from: the tokenizers library, and transformers' classes."""

from __future__ import annotations

import json
import pathlib
import random

import pytest
import tensorflow as tf
import tokenizers as reference
import torch
import transformers
from tokenizers import decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as kinds

from keras_lm import tokenizers
from keras_lm.byte_pairs import BytePairTokenizer, byte_letters
from keras_lm.errors import UserError
from keras_lm.export.saved_model import ExportedGenerator, export_model
from keras_lm.export.tflite import export_lite_model
from keras_lm.generation.automata import Regex
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.pretrained import load, save
from keras_lm.pretrained.tokenizers import load_tokenizer
from keras_lm.tokenizer_base import SPECIAL
from keras_lm.word_pieces import BertTokenizer
from tests.pretrained.checkpoints import gpt2, saved

KINDS = ("gpt2", "bert", "bert-cased")
AWKWARD = [
    "",
    "   ",
    "\n",
    "a  b\t\tc \n\n d ",
    "I've we'LL it 's don't'll",
    "a" * 100,
    "a" * 101 + " b",
    "aaaa aaa aaaaaa",
    "naïve café ÀÉÎ e\u0301 ΑΣ ΣΑΣ İstanbul ß",
    "１２３ ½ 一二三，中文English混排。「」",
    "\u3000\u00a0\u2028x\u0085y\u200d\ufeff\x01\x1f\x7f",
    "😀👨‍👩‍👧🇨🇳",
    "##a # ## [PAD] <|endoftext|> [unused1]",
    "\ufffd",
]


def mixed(number: int) -> list[str]:
    """Lines of English, Chinese, source code and noise."""
    draw = random.Random(0)
    words = ["the", "a", "of", "I've", "you'll", "don't", "language", "model,", "3.5%", "2026", "(see", "§4)", "caffè", "Ελλάδα", "Привет"]
    chinese = "我们喜欢编程，语言模型从理论到实践。「文本」生成；第３章"
    code = [line for path in sorted(pathlib.Path(__file__).parent.glob("*.py")) for line in path.read_text("utf-8").splitlines()]
    blocks = [(1, 0x250), (0x370, 0x400), (0x1F00, 0x2070), (0x3000, 0x3100), (0x4E00, 0x4E80), (0xAC00, 0xAC20), (0x1F600, 0x1F610)]
    noise = [chr(code) for first, end in blocks for code in range(first, end)] + list(" \n\t" * 60)
    makers = [
        lambda: " ".join(draw.choices(words, k=draw.randint(1, 12))),
        lambda: "".join(draw.choices(chinese, k=draw.randint(1, 40))),
        lambda: draw.choice(code),
        lambda: "".join(draw.choices(noise, k=draw.randint(0, 40))),
    ]
    return [*AWKWARD, *(draw.choice(makers)() for _ in range(number - len(AWKWARD)))]


def trained(kind: str, texts: list[str]) -> reference.Tokenizer:
    """A tokenizer of the tokenizers library in the form of GPT-2 or BERT."""
    if kind == "gpt2":
        made = reference.Tokenizer(kinds.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
        special = ["<|endoftext|>"]
        trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, initial_alphabet=letters, show_progress=False)
    else:
        made = reference.Tokenizer(kinds.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=kind == "bert"), pre_tokenizers.BertPreTokenizer()
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(vocab_size=1500, special_tokens=names, show_progress=False)
    made.train_from_iterator(texts, trainer)
    return made


def equal(folder: pathlib.Path, theirs, texts: list[str]) -> None:
    ours = load_tokenizer(folder)
    ids = ours.tokenize(tf.constant(texts)).to_list()
    expected = [encoding.ids for encoding in theirs.encode_batch(texts, add_special_tokens=False)]
    different = [(text, own, right) for text, own, right in zip(texts, ids, expected, strict=True) if own != right]
    assert not different, f"{len(different)} of {len(texts)}, the first: {different[0]}"


def without_names(texts: list[str]) -> list[str]:
    """Texts without the names of special tokens, which the tokenizers library would find in them."""
    return [text for text in texts if not any(name in text for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>"))]


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """A folder with a tokenizer, the tokenizer, and lines half of which it was not trained on."""
    texts = without_names(mixed(10_000))
    theirs = trained(request.param, texts[::2])
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": request.param == "bert"}))
    return request.param, folder, theirs, texts


def test_ids_are_those_of_the_tokenizers_library(made):
    """On 10,000 lines of mixed text."""
    _, folder, theirs, texts = made
    equal(folder, theirs, texts)


def test_the_older_files_give_the_same_ids(made, tmp_path):
    _, folder, theirs, texts = made
    theirs.model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text())
    assert not (tmp_path / "tokenizer.json").exists()
    equal(tmp_path, theirs, texts[:1000])


def test_a_saved_one_is_the_same(made, tmp_path):
    _, folder, _, texts = made
    ours = load_tokenizer(folder)
    ours.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert type(again) is type(ours)
    assert again.special_ids == ours.special_ids
    assert again.pieces() == ours.pieces()
    assert again.tokenize(tf.constant(texts[:300])).to_list() == ours.tokenize(tf.constant(texts[:300])).to_list()


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_as_transformers_itself_saves_them(kind, tmp_path):
    texts = without_names(mixed(1000))
    made = trained(kind, texts)
    vocabulary = made.get_vocab()
    if kind == "gpt2":
        merges = [tuple(pair) for pair in json.loads(made.to_str())["model"]["merges"]]
        theirs = transformers.GPT2Tokenizer(vocab=vocabulary, merges=merges, pad_token="<pad>")
    else:
        theirs = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True)
    theirs.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    names = ("bos_token_id", "eos_token_id") if kind == "gpt2" else ("cls_token_id", "sep_token_id")
    assert (ours.start_id, ours.end_id) == tuple(getattr(theirs, name) for name in names)
    assert (ours.unknown_id, ours.pad_id) == (theirs.unk_token_id, theirs.pad_token_id)
    assert ours.vocabulary_size == len(theirs)
    assert ours.tokenize(tf.constant(texts)).to_list() == theirs(texts, add_special_tokens=False)["input_ids"]


def test_no_text_is_changed_by_byte_pairs(made):
    kind, folder, _, texts = made
    ours = load_tokenizer(folder)
    ids = ours.tokenize(tf.constant(texts[:2000]))
    written = [text.decode() for text in ours.detokenize(ids).numpy()]
    pieces = ours.pieces()
    assert written[:100] == [b"".join(pieces[token] for token in row).decode() for row in ids[:100].to_list()]
    if kind == "gpt2":
        assert written == texts[:2000]
        assert ours.detokenize(ours.tokenize(tf.constant(["a\U0010fffeb"]))).numpy()[0].decode() == "a\ufffdb"  # which marks a cut
    else:
        assert ours.detokenize(ours.tokenize(tf.constant(["Hello, world: 中文"]))).numpy()[0].decode().count(" ") <= 5


def test_special_tokens_write_nothing(made):
    ours = load_tokenizer(made[1])
    pieces = ours.pieces()
    for token in ours.special_ids - {ours.unknown_id}:
        assert pieces[token] == b""
    assert ours.end_id not in ours.never


@pytest.mark.slow
def test_a_model_is_read_served_and_saved_with_its_tokenizer(made, tmp_path):
    """GPT-2 with either tokenizer (as the Chinese checkpoints have it): read, sampled, exported, saved, read by transformers."""
    _, folder, theirs, texts = made
    model = saved(gpt2(vocab_size=theirs.get_vocab_size(), n_positions=48), tmp_path / "model")
    for path in folder.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    loaded = load(model)
    generator = TextGenerator(loaded.model, loaded.tokenizer, documents=False, jit_compile=False)
    prompts = ["the language", "我们喜欢"]
    found = generator.generate(prompts, max_new_tokens=12, temperature=0.0)
    reference_model = transformers.GPT2LMHeadModel.from_pretrained(model)
    reference_model.generation_config.eos_token_id = None
    for prompt, text in zip(prompts, found, strict=True):
        ids = theirs.encode(prompt, add_special_tokens=False).ids
        ours = loaded.tokenizer
        bad = [[token] for token in ours.never] or None
        right = reference_model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=12, eos_token_id=ours.end_id, bad_words_ids=bad, pad_token_id=ours.end_id
        )[0, len(ids) :].tolist()
        right = right[: right.index(ours.end_id)] if ours.end_id in right else right
        expected = b"".join(ours.pieces()[token] for token in right).decode("utf-8", "replace")
        assert text.text == expected
    export_model(loaded.model, loaded.tokenizer, tmp_path / "saved_models" / "m", documents=False)
    exported = ExportedGenerator(tmp_path / "saved_models" / "m")
    served = exported.generate(prompts, SamplingSettings(max_new_tokens=12, temperature=0.0))
    assert [one.text for one in served] == [one.text for one in found]

    assert save(loaded.model, loaded.tokenizer, tmp_path / "again") == ""
    theirs_again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert theirs_again(texts[:500], add_special_tokens=False)["input_ids"] == loaded.tokenizer.tokenize(tf.constant(texts[:500])).to_list()
    assert type(load(tmp_path / "again").tokenizer) is type(loaded.tokenizer)


def test_a_constraint_never_writes_a_special_token():
    """Ids 0 to 3 are ordinary ones in GPT-2: a pattern may be written with them."""
    names = byte_letters()
    tokenizer = BytePairTokenizer([*names, "<e>"], [], dict.fromkeys(SPECIAL, 256))
    bang = tokenizer.tokenize(tf.constant(["!"])).to_list()[0][0]
    swapped = [*names]
    swapped[0], swapped[bang] = swapped[bang], swapped[0]
    tokenizer = BytePairTokenizer([*swapped, "<e>"], [], dict.fromkeys(SPECIAL, 256))
    assert tokenizer.tokenize(tf.constant(["!"])).to_list() == [[0]]
    assert Regex("!+").compile(tokenizer.pieces(), tokenizer.special_ids).tokens.tolist()[:1] == [0]


def test_a_pair_that_overlaps_itself_is_merged_from_the_left():
    names = byte_letters()
    ids = {name: number for number, name in enumerate(names)}
    tokenizer = BytePairTokenizer([*names, "aa", "aab", "<e>"], [("a", "a"), ("aa", "b")], dict.fromkeys(SPECIAL, 258))
    assert tokenizer.tokenize(tf.constant(["aaa", "aaaab", "aaab", "a", "aaaaa"])).to_list() == [
        [256, ids["a"]],
        [256, 257],
        [256, ids["a"], ids["b"]],
        [ids["a"]],
        [256, 256, ids["a"]],
    ]


def test_without_merges_there_are_bytes():
    tokenizer = BytePairTokenizer([*byte_letters(), "<e>"], [], dict.fromkeys(SPECIAL, 256))
    ids = tokenizer.tokenize(tf.constant(["中a"])).to_list()[0]
    assert [tokenizer.pieces()[token] for token in ids] == [b"\xe4", b"\xb8", b"\xad", b"a"]


LETTERS = byte_letters()
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFC"}}, "normalizer"),
        ({"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "add_prefix_space True"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer.type 'Metaspace'"),
        ({"model": {"type": "Unigram", "vocab": []}}, "kind Unigram"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "lacks 255 of the 256 bytes|no '<|endoftext|>'"),
        ({"merges": [["a", "x", "y"]]}, "merge 1 is 'a x y'"),
        ({"merges": [["ab", "c"]]}, "merge 1 .ab c. is of 'ab'"),
        ({"merges": [["a", "b"], ["a", "b"]]}, "merge stands twice"),
        ({"merges": [["abc", "d"], ["ab", "c"], ["a", "b"]]}, "stands before those that make its parts"),
        ({"added": {"id": 261, "content": "added", "special": False}}, "added token 'added' is not a special one"),
        ({"added": {"id": 300, "content": "<x>", "special": True}}, "not the numbers from 0 on"),
    ],
)
def test_what_is_not_gpt2s_is_refused_by_name(changes, message, tmp_path):
    vocabulary = {name: number for number, name in enumerate([*LETTERS, "ab", "abc", "abcd", "ac", "<|endoftext|>"])}
    description = {
        "added_tokens": [changes["added"]] if "added" in changes else [],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": changes.get("merges", [["a", "b"]])},
    }
    if "merges" in changes and changes["merges"][0] == ["ab", "c"]:
        del vocabulary["ab"]
        vocabulary = {name: number for number, name in enumerate(vocabulary)}
        description["model"]["vocab"] = vocabulary
    description |= {name: value for name, value in changes.items() if name not in ("merges", "added")}
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        load_tokenizer(tmp_path)


def test_no_tokenizer_and_those_of_other_kinds(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(UserError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match=r"without merges\.txt"):
        load_tokenizer(tmp_path)


def test_bert_refuses_a_vocabulary_with_doubles():
    with pytest.raises(UserError, match="stands twice"):
        BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "a"], dict(zip(SPECIAL, range(4), strict=True)))


@pytest.mark.parametrize("kind", [BytePairTokenizer, BertTokenizer])
def test_they_are_not_learnt_here(kind):
    with pytest.raises(UserError, match="comes with a checkpoint"):
        kind.fit(["a"])


def test_litert_refuses_them(tmp_path):
    from keras_lm.models import gru_lm

    tokenizer = BytePairTokenizer([*LETTERS, "<e>"], [], dict.fromkeys(SPECIAL, 256))
    with pytest.raises(UserError, match="no gpt2 tokenizer"):
        export_lite_model(gru_lm(257, embedding_dim=8, hidden_dim=8), tokenizer, tmp_path)
