"""Sessions against `TextGenerator.generate` on the conversation written out by hand, with models whose answers can be read."""

import itertools
import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lm import models, pretrained, seq2seq
from keras_lm.byte_pairs import byte_letters
from keras_lm.classical.ngram import NGramModel
from keras_lm.errors import UserError
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.tasks.chat import ChatSession, shared, without_outer_space
from keras_lm.tasks.conversation import FORMATS, ChatFormat, Conversation, Turn
from keras_lm.tokenizer_base import SPECIAL
from keras_lm.tokenizers import BytePairTokenizer, ByteTokenizer, CharacterTokenizer
from tests.conftest import scripted_model

SYSTEM = "甲问，乙答。"
TALK = [Turn("你好", "你好！"), Turn("你是谁", "是我。\n答一问：二"), Turn("再见", "下次见。")]
CONTEXT = 128  # one size of the cache, whatever the prompt


def reader(turns, *forms, smoothing="mle", **options):
    """An n-gram model that knows a conversation by heart, in some formats."""
    text = "".join(form.text(turns) + form.before_user for form in forms)
    tokenizer = CharacterTokenizer.fit([text])
    ids = np.array(tokenizer.tokenize([text]).to_list()[0])
    order = max(len(form.before_answer) for form in forms) + 6
    model = NGramModel.fit(ids, order, vocabulary_size=tokenizer.vocabulary_size, smoothing=smoothing)
    return TextGenerator(model, tokenizer, documents=False, jit_compile=False, **options)


@pytest.fixture(scope="module")
def well_read():
    return reader(TALK, *(ChatFormat.named(name, SYSTEM) for name in FORMATS))


@pytest.fixture(scope="module")
def gru():
    keras.utils.set_random_seed(0)
    return TextGenerator(models.gru_lm(260, embedding_dim=8, hidden_dim=12, num_layers=1), ByteTokenizer(), jit_compile=False)


@pytest.fixture(scope="module")
def transformer():
    keras.utils.set_random_seed(0)
    model = models.transformer_lm(260, context_length=CONTEXT, embedding_dim=16, num_layers=1, num_heads=2)
    return TextGenerator(model, ByteTokenizer(), jit_compile=False)


@pytest.fixture
def shown(monkeypatch):
    """Makes a generator note what its model reads, as text."""

    def watch(generator):
        texts, stream = [], generator.sampler.stream

        def noted(prompts, *arguments, **options):
            texts.append(generator.tokenizer.detokenize([prompts[0]]).numpy()[0].decode())
            return stream(prompts, *arguments, **options)

        monkeypatch.setattr(generator.sampler, "stream", noted)
        return texts

    return watch


def test_a_conversation_is_written_as_the_names_say():
    turns, system = [Turn("Hi", "Hello!"), Turn("Bye", "See you.")], "Be kind."
    assert ChatFormat.named("zh", system).text(turns) == "Be kind.\n问：Hi\n答：Hello!\n问：Bye\n答：See you.\n"
    assert ChatFormat.named("en").text(turns) == "User: Hi\nAssistant: Hello!\nUser: Bye\nAssistant: See you.\n"
    chatml = (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you.<|im_end|>\n"
    )
    assert ChatFormat.named("chatml", system).text(turns) == chatml
    assert ChatFormat.named("zh") == ChatFormat()


@pytest.mark.parametrize("name", FORMATS)
def test_a_prompt_is_what_stands_before_the_answer(name):
    """But for a space, which the answer then begins with."""
    form = ChatFormat.named(name, "Be kind.")
    *before, last = TALK
    whole, prompt = form.text(TALK), form.prompt(before, last.user)
    assert whole.startswith(prompt)
    assert whole[len(prompt) :].strip(" ") == last.answer + form.after_answer
    assert (form.text(TALK) + form.before_user).removeprefix(prompt).strip().partition(form.stop[0])[0] == last.answer


def test_formats_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="unknown format 'chatlm': did you mean 'chatml'"):
        ChatFormat.named("chatlm")
    with pytest.raises(UserError, match="the end of an answer could not be told"):
        ChatFormat(before_user="", after_answer="")
    with pytest.raises(UserError, match="system must be Unicode text"):
        ChatFormat(system="\ud800")
    assert ChatFormat(before_user="", after_answer="\n").stop == ("\n",)


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_read_is_answered_as_it_was_read(well_read, name):
    """Up to where the next turn begins; a line feed, and the mark of a turn inside a line, end nothing."""
    session = ChatSession(well_read, ChatFormat.named(name, SYSTEM), temperature=0.0, max_new_tokens=24)
    answers = [session.say(f" {turn.user}\n") for turn in TALK]
    assert [answer.text for answer in answers] == [turn.answer for turn in TALK]
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert session.history == tuple(TALK)
    assert session.answer == answers[-1]


def test_a_stop_string_may_be_spread_over_tokens_of_single_bytes():
    tokenizer = ByteTokenizer()
    said = "：AB\n问：".encode()[2:]  # the prompt ends with the last byte of the colon, and so does the stop string
    generator = TextGenerator(scripted_model([byte + 4 for byte in said], 260), tokenizer, jit_compile=False)
    answer = ChatSession(generator, temperature=0.0).say("你好")
    assert (answer.text, answer.num_tokens, answer.finish_reason) == ("AB", 2 + len("\n问：".encode()), "stop")


def test_a_stop_string_may_begin_inside_a_token():
    names = ["ĠHi", "!Ċ"]
    letters = byte_letters()
    tokenizer = BytePairTokenizer([*letters, "Hi", *names, "<e>"], [("H", "i"), ("Ġ", "Hi"), ("!", "Ċ")], dict.fromkeys(SPECIAL, 256 + 3))
    script = [":", "ĠHi", "!Ċ", "U", "s", "e", "r", ":"]
    ids = [[*letters, "Hi", *names].index(name) for name in script]
    generator = TextGenerator(scripted_model(ids, tokenizer.vocabulary_size), tokenizer, documents=False, jit_compile=False)
    session = ChatSession(generator, ChatFormat.named("en"), temperature=0.0)
    assert "".join(session.stream("x")) == session.history[-1].answer == "Hi!"
    assert session.answer.num_tokens == 7


def test_stop_strings_are_cleaned_as_the_training_text_was():
    """Lower case, but with the line feed at their beginning."""
    turns = [Turn("hi", "hello!"), Turn("who", "a model. user: you.")]
    lower = ChatFormat(before_user="user: ", before_answer="\nassistant: ")
    generator = reader(turns, lower, clean=["lower", "whitespace"])
    session = ChatSession(generator, ChatFormat.named("en"), temperature=0.0)
    assert [session.say(turn.user).text for turn in turns] == [turn.answer for turn in turns]


@pytest.mark.parametrize("kind", ["gru", pytest.param("transformer", marks=pytest.mark.slow)])
def test_answers_are_what_the_generator_gives_for_the_conversation(kind, request):
    """Whole and in pieces, for whatever reason they end."""
    generator, form, reasons = request.getfixturevalue(kind), ChatFormat.named("en"), set()
    for seed in range(2):
        settings = SamplingSettings(max_new_tokens=6, seed=seed, temperature=1.0, stop=("a",), logit_bias=("a=3",))
        said, streamed = ChatSession(generator, form, settings), ChatSession(generator, form, settings)
        before = ()
        for text in ("Hi", "中"):
            (expected,) = generator.generate([form.prompt(before, text)], settings, stop=(*form.stop, *settings.stop))
            answer, pieces = said.say(text), list(streamed.stream(text))
            assert (answer.text, answer.num_tokens, answer.finish_reason) == (
                expected.text.strip(),
                expected.num_tokens,
                expected.finish_reason,
            )
            assert "".join(pieces) == answer.text and all(pieces)
            assert streamed.answer == answer
            before = (*before, Turn(text, answer.text, seed))
            reasons.add(answer.finish_reason)
        assert said.history == streamed.history == before
    assert {"stop", "length"} <= reasons


@given(st.lists(st.text(alphabet="ab \n\u3000", max_size=4)))
def test_white_space_at_the_ends_goes_and_no_other(pieces):
    kept = list(without_outer_space(pieces))
    assert "".join(kept) == "".join(pieces).strip()
    assert all(kept)


def say_until(session, texts, number):
    """So many turns of texts in turn, with the answers."""
    return [session.say(text) for text in itertools.islice(itertools.cycle(texts), number)]


@pytest.mark.parametrize(
    ("kind", "longest", "system"),
    [("transformer", None, "Be kind."), pytest.param("transformer", 70, "", marks=pytest.mark.slow), ("gru", 70, "")],
)
def test_as_many_of_the_latest_turns_are_shown_as_leave_room(request, shown, kind, longest, system):
    """Counted by hand: a byte is a token, and one begins the text."""
    generator = request.getfixturevalue(kind)
    prompts, size, new = shown(generator), longest or CONTEXT, 6
    form = ChatFormat.named("en", system)
    session = ChatSession(generator, form, longest=longest, max_new_tokens=new, stop=("e",))
    texts = ["Hi", "a", "which one", "好", "and so on"]
    answers = say_until(session, texts, 8)
    count = lambda turns, text: len(form.prompt(turns, text).encode()) + 1
    assert len(prompts) == 8
    for number, (turn, answer, prompt) in enumerate(zip(session.history, answers, prompts, strict=True)):
        before = session.history[:number]
        fitting = [cut for cut in range(number + 1) if count(before[cut:], turn.user) <= size - new]
        assert answer.turns_cut == fitting[0]
        assert prompt == form.prompt(before[fitting[0] :], turn.user)
        assert prompt.startswith(system)
        assert answer.finish_reason in ("length", "stop", "end")  # never «context»
    cuts = [answer.turns_cut for answer in answers]
    assert cuts[0] == 0 and cuts == sorted(cuts) and cuts[-1] > 2
    assert len(session.history) == 8


def test_a_context_without_end_shows_everything(gru, shown):
    prompts, session = shown(gru), ChatSession(gru, max_new_tokens=8)
    answers = say_until(session, ["一", "二"], 5)
    assert {answer.turns_cut for answer in answers} == {0}
    assert prompts[-1] == session.format.prompt(session.history[:-1], "一")
    assert session.context is None


@pytest.mark.parametrize("system", ["", "Be kind."])
def test_a_turn_that_fits_to_the_token_is_answered_and_one_more_is_refused(transformer, system):
    session = ChatSession(transformer, ChatFormat.named("en", system), max_new_tokens=16)
    room = CONTEXT - 16
    longest = room - len(session.format.prompt([], "").encode()) - 1
    session.say("Hi")
    before = session.history
    among = ", the system text among them" if system else ""
    message = f"this turn has {room + 1} tokens{among}; {room} fit, of {CONTEXT} that it shares with 16 new ones"
    for ask in (session.say, session.stream):
        with pytest.raises(UserError, match=message):
            ask("x" * (longest + 1))
    assert session.history == before
    answer = session.say("x" * longest)
    assert answer.turns_cut == 1
    assert answer.finish_reason != "context"


def test_settings_that_leave_no_room_are_refused(transformer, gru):
    assert ChatSession(transformer).settings.max_new_tokens == CONTEXT // 2
    assert ChatSession(gru).settings.max_new_tokens == SamplingSettings().max_new_tokens
    assert ChatSession(gru, longest=20, temperature=0.5).settings == SamplingSettings(max_new_tokens=10, temperature=0.5)
    assert shared(context=1000) == (SamplingSettings(), 1000)
    message = f"max_new_tokens must be under the {CONTEXT} tokens that conversation and answer share, got 128"
    with pytest.raises(UserError, match=message):
        ChatSession(transformer, None, SamplingSettings())
    with pytest.raises(UserError, match="under the 20 tokens"):
        ChatSession(gru, longest=20, max_new_tokens=20)
    with pytest.raises(UserError, match="longest must be at least 2, a token read and one written, got 1"):
        ChatSession(gru, longest=1)
    with pytest.raises(UserError, match="num_samples must be 1 in a chat, got 2"):
        ChatSession(gru, num_samples=2)
    with pytest.raises(UserError, match="top_p must be over 0"):
        ChatSession(gru, top_p=2.0)
    with pytest.raises(UserError, match="'ab' is 2 tokens of this tokenizer"):
        ChatSession(gru, forbid=("ab",))


def test_an_encoder_decoder_is_refused():
    model = seq2seq.SEQ2SEQ["gru"](260, embedding_dim=8, hidden_dim=8, num_layers=1)
    with pytest.raises(UserError, match=r"an encoder-decoder .* knows no turns: chat with a language model"):
        ChatSession(TextGenerator(model, ByteTokenizer(), jit_compile=False))


@pytest.mark.slow
def test_a_checkpoint_chats(transformer, tmp_path):
    pretrained.save(transformer.model, transformer.tokenizer, tmp_path / "checkpoint")
    loaded = pretrained.load(tmp_path / "checkpoint")
    generator = TextGenerator(loaded.model, loaded.tokenizer, jit_compile=False)
    own, read = ChatSession(transformer, max_new_tokens=10), ChatSession(generator, max_new_tokens=10)
    assert [own.say(text).text for text in ("Hi", "Bye")] == [read.say(text).text for text in ("Hi", "Bye")]


def test_same_seed_and_same_turns_same_answers(gru):
    talks = []
    for seed in (1, 1, 2):
        session = ChatSession(gru, max_new_tokens=6, seed=seed)
        talks.append([answer.text for answer in say_until(session, ["Hi", "中"], 3)])
    assert talks[0] == talks[1] != talks[2]


def test_retry_answers_with_the_next_seed(gru):
    """As sessions would that began with that seed; the turn after it draws with the session's own."""
    sessions = [ChatSession(gru, max_new_tokens=6, seed=seed) for seed in (5, 6, 7)]
    texts = [session.say("Hi").text for session in sessions]
    assert len(set(texts)) == 3
    session = sessions[0]
    assert session.retry().text == texts[1]
    assert "".join(session.stream_retry()) == texts[2]
    assert session.history == (Turn("Hi", texts[2], 7),)
    session.say("中")
    assert session.history[1].seed == 5
    last = ChatSession(gru, max_new_tokens=5, seed=2**31 - 1)
    last.say("Hi")
    last.retry()
    assert last.history[0].seed == 0


def test_undo_takes_back_the_last_turn_alone(well_read):
    session = ChatSession(well_read, temperature=0.0)
    session.say("你好")
    session.say("再见")
    assert session.undo() == Turn("再见", "下次见。")
    assert (session.history, session.answer) == ((TALK[0],), None)
    assert session.say("你是谁").text == TALK[1].answer
    session.undo()
    session.undo()
    for method in (session.undo, session.retry, session.stream_retry):
        with pytest.raises(UserError, match="nothing has been said yet"):
            method()


def test_a_saved_conversation_goes_on_as_it_would_have(gru, tmp_path):
    form = ChatFormat.named("en", system="Be kind.")
    session = ChatSession(gru, form, max_new_tokens=6, seed=3)
    session.say("Hi")
    session.say("中")
    session.retry()
    session.save(tmp_path / "talk.json")
    again = ChatSession(gru, ChatFormat.named("en", system="other"), max_new_tokens=6, seed=3)
    again.say("forgotten")
    again.load(tmp_path / "talk.json")
    assert (again.history, again.format, again.answer) == (session.history, session.format, None)
    assert again.retry() == session.retry()
    assert again.say("Bye") == session.say("Bye")
    values = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert values["system"] == "Be kind."
    assert [turn["user"] for turn in values["turns"]] == ["Hi", "中"]
    session.save(tmp_path / "talk.json")
    assert ([path.name for path in tmp_path.iterdir()], len(Conversation.load(tmp_path / "talk.json").turns)) == (["talk.json"], 3)


GOOD = {"kind": "keras_lm conversation", "version": 1, "system": "", "turns": [{"user": "a", "answer": "b", "seed": 0}]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (json.dumps(GOOD)[:-20].encode(), "talk.json, line 1: this is no JSON"),
        (json.dumps(GOOD, indent=1).replace('"turns"', "'turns'").encode(), "talk.json, line 5: this is no JSON"),
        (b"", "talk.json, line 1: this is no JSON"),
        (b"{\n\xff", "talk.json, line 2: this is not UTF-8"),
        (b"[" * 100_000, "talk.json holds no conversation"),
        (b"1" * 5_000, "talk.json holds no conversation"),
        (b'{"model": "gru"}', "talk.json holds no conversation: give a file that a chat was saved in"),
        (b"[]", "talk.json holds no conversation"),
        (json.dumps({**GOOD, "version": 2}).encode(), "talk.json is a conversation of version 2, which this keras_lm does not read"),
        (json.dumps({**GOOD, "system": None}).encode(), "talk.json is damaged: a system text and a list of turns"),
        (json.dumps({**GOOD, "turns": {}}).encode(), "talk.json is damaged: a system text and a list of turns"),
        (json.dumps({**GOOD, "turns": [*GOOD["turns"], ["a", "b"]]}).encode(), "talk.json is damaged: turn 2 should have"),
        (json.dumps({**GOOD, "turns": [{"user": "a", "answer": "b"}]}).encode(), "talk.json is damaged: turn 1 should have"),
        (json.dumps({**GOOD, "turns": [{"user": "a", "answer": 1, "seed": 0}]}).encode(), "talk.json is damaged: turn 1 should have"),
        (json.dumps({**GOOD, "turns": [{"user": "a", "answer": "b", "seed": -1}]}).encode(), "talk.json is damaged: turn 1 should have"),
        (
            json.dumps({**GOOD, "turns": [{"user": "\ud800", "answer": "b", "seed": 0}]}).encode(),
            "talk.json is damaged: turn 1 should have",
        ),
    ],
)
def test_damaged_and_foreign_files_are_refused_in_one_line(well_read, tmp_path, data, message):
    (tmp_path / "talk.json").write_bytes(data)
    (tmp_path / "good.json").write_text(json.dumps({**GOOD, "system": "x"}))
    session = ChatSession(well_read)
    session.load(tmp_path / "good.json")
    assert session.history == (Turn("a", "b"),)
    before = session.history, session.format, session.answer
    with pytest.raises(UserError, match=message) as refused:
        session.load(tmp_path / "talk.json")
    assert "\n" not in str(refused.value)
    assert (session.history, session.format, session.answer) == before


def test_files_that_cannot_be_read_or_written(well_read, tmp_path):
    session = ChatSession(well_read)
    with pytest.raises(UserError, match="no such file"):
        session.load(tmp_path / "nosuch.json")
    with pytest.raises(UserError, match="is a folder"):
        session.save(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"talk\.json cannot be written: "):
        session.save(tmp_path / "file" / "talk.json")


@pytest.mark.parametrize("text", ["", " \n\u3000"])
def test_an_empty_turn_is_refused(well_read, text):
    with pytest.raises(UserError, match="a turn is empty: say something"):
        ChatSession(well_read).say(text)


def test_a_turn_that_is_no_text_is_refused(well_read):
    with pytest.raises(UserError, match="a turn must be Unicode text"):
        ChatSession(well_read).stream("a\udc80")


def test_a_stream_that_is_closed_keeps_what_was_said(gru):
    session = ChatSession(gru, max_new_tokens=40, temperature=0.5, seed=1)
    session.say("Hi")
    before = session.history
    unstarted = session.stream("中")
    unstarted.close()
    assert session.history == before
    stream = session.stream("中")
    pieces = [next(stream), next(stream)]
    stream.close()
    assert session.history == (*before, Turn("中", "".join(pieces), 1))
    assert session.answer.finish_reason == "interrupted"
    retried = session.stream_retry()
    piece = next(retried)
    retried.close()
    assert session.history == (*before, Turn("中", piece, 2))


@pytest.fixture
def broken(gru, monkeypatch):
    """Has the sampler fail after so many chunks."""

    def fail(error, after):
        stream = gru.sampler.stream

        def failing(*arguments, **options):
            yield from itertools.islice(stream(*arguments, **options), after)
            raise error

        monkeypatch.setattr(gru.sampler, "stream", failing)
        return ChatSession(gru, max_new_tokens=40, temperature=0.5)

    return fail


def test_ctrl_c_in_a_stream_keeps_what_was_said(broken):
    session, pieces = broken(KeyboardInterrupt(), after=2), []
    with pytest.raises(KeyboardInterrupt):
        for piece in session.stream("Hi"):
            pieces.append(piece)
    assert session.history == (Turn("Hi", "".join(pieces)),)
    assert pieces


@pytest.mark.parametrize(("error", "after"), [(KeyboardInterrupt(), 0), (RuntimeError("out of memory"), 2)])
def test_nothing_said_and_other_failures_leave_the_session_as_it_was(broken, error, after):
    session = broken(error, after)
    with pytest.raises(type(error)):
        list(session.stream("Hi"))
    assert (session.history, session.answer) == ((), None)


def test_an_interrupted_say_leaves_the_session_as_it_was(broken):
    session = broken(KeyboardInterrupt(), after=2)
    with pytest.raises(KeyboardInterrupt):
        session.say("Hi")
    assert (session.history, session.answer) == ((), None)


def test_a_stream_of_another_past_keeps_nothing(gru):
    session = ChatSession(gru, max_new_tokens=20, temperature=0.5)
    old = session.stream("Hi")
    next(old)
    session.say("other")
    history, answer = session.history, session.answer
    list(old)
    assert (session.history, session.answer) == (history, answer)


def test_another_stop_string(well_read):
    assert ChatSession(well_read, temperature=0.0, stop=("我",)).say("你是谁").text == "是"


@pytest.mark.slow
def test_what_is_allowed():
    answer = ChatSession(reader(TALK, ChatFormat(), smoothing="add_k"), allow="[你好]{3}").say("你是谁")
    assert (len(answer.text), set(answer.text) <= {"你", "好"}, answer.finish_reason) == (3, True, "end")


def test_unknown_characters_are_those_of_the_cleaned_text():
    form = ChatFormat(before_user="user: ", before_answer="\nassistant: ")
    session = ChatSession(reader([Turn("hi", "hello")], form, clean=["lower"]))
    assert session.unknown_characters("HI! hello?") == ["!", "?"]
