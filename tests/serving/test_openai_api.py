"""OpenAI's routes, asked with OpenAI's own client; every text is the one that the library gives for its seed."""

import itertools
import json

import openai
import pytest

from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.tasks.conversation import ChatFormat, Turn


@pytest.fixture(scope="module")
def api(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def library(tiny):
    return TextGenerator(*tiny, jit_compile=False)


def streamed(chunks, of=lambda choice: choice.text):
    """The text of each choice, and why it ended."""
    texts, reasons = {}, {}
    for choice in itertools.chain.from_iterable(chunk.choices for chunk in chunks):
        texts[choice.index] = texts.get(choice.index, "") + (of(choice) or "")
        reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    return [texts[number] for number in sorted(texts)], [reasons[number] for number in sorted(reasons)]


def test_prompts_and_samples_are_those_of_the_library(api, library):
    """Number i of a request draws with seed + i, whole or streamed."""
    prompts, n = ["中国", "abc"], 3
    knobs = {"temperature": 0.9, "top_p": 0.95, "presence_penalty": 0.5, "frequency_penalty": 0.25, "seed": 7}
    extra = {"top_k": 20, "min_p": 0.01, "typical_p": 0.99, "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "min_tokens": 4}
    settings = SamplingSettings(
        max_new_tokens=16, num_samples=n, min_new_tokens=4, **knobs, **{name: extra[name] for name in extra if name != "min_tokens"}
    )
    expected = library.generate(prompts, settings)
    answer = api.completions.create(model="tiny", prompt=prompts, n=n, max_tokens=16, **knobs, extra_body=extra)
    assert [choice.text for choice in answer.choices] == [each.text for each in expected]
    reasons = {"length": "length", "end": "stop"}
    assert [choice.finish_reason for choice in answer.choices] == [reasons[each.finish_reason] for each in expected]
    assert answer.usage.completion_tokens == sum(each.num_tokens for each in expected)
    assert answer.usage.prompt_tokens == 3 + 4
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(api.completions.create(model="tiny", prompt=prompts, n=n, max_tokens=16, **knobs, **options, extra_body=extra))
    texts, ends = streamed(chunks)
    assert texts == [each.text for each in expected]
    assert ends == [choice.finish_reason for choice in answer.choices]
    assert chunks[-1].usage == answer.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_stop_strings_biases_and_echo(api, library, tiny):
    tokenizer = tiny[1]
    token = tokenizer.pieces().index(b"a")
    settings = SamplingSettings(max_new_tokens=30, seed=1, stop=("a",), logit_bias=("a=3.5",))
    (expected,) = library.generate(["中"], settings)
    asked = {"model": "tiny", "prompt": "中", "max_tokens": 30, "seed": 1, "stop": "a", "logit_bias": {str(token): 3.5}}
    (choice,) = api.completions.create(**asked, echo=True).choices
    assert (choice.text, choice.finish_reason) == ("中" + expected.text, "stop")
    assert expected.finish_reason == "stop"
    assert streamed(api.completions.create(**asked, echo=True, stream=True)) == ([choice.text], ["stop"])


def test_log_probabilities(api, library):
    settings = SamplingSettings(max_new_tokens=6, seed=2, top_logprobs=3)
    (expected,) = library.generate(["abc"], settings)
    (choice,) = api.completions.create(model="tiny", prompt="abc", max_tokens=6, seed=2, logprobs=3).choices
    assert choice.logprobs.tokens == [token.text for token in expected.tokens]
    assert choice.logprobs.token_logprobs == pytest.approx([token.logprob for token in expected.tokens], abs=1e-4)
    assert [list(best) for best in choice.logprobs.top_logprobs] == [[text for text, _ in token.alternatives] for token in expected.tokens]
    assert choice.logprobs.text_offset == list(range(len(expected.tokens)))
    asked = {"model": "tiny", "prompt": "abc", "max_tokens": 6, "seed": 2, "logprobs": 3}
    parts = [chunk.choices[0].logprobs for chunk in api.completions.create(**asked, stream=True)]
    assert [token for part in parts for token in part.tokens] == choice.logprobs.tokens
    assert [offset for part in parts for offset in part.text_offset] == choice.logprobs.text_offset


def test_a_conversation_is_written_as_a_chat_is(api, library):
    messages = [
        {"role": "system", "content": "你问"},
        {"role": "user", "content": "abc"},
        {"role": "assistant", "content": "好"},
        {"role": "user", "content": [{"type": "text", "text": "中"}, {"type": "text", "text": "国"}]},
    ]
    form = ChatFormat(system="你问")
    settings = SamplingSettings(max_new_tokens=20, seed=5, stop=form.stop, top_logprobs=1)
    (expected,) = library.generate([form.prompt([Turn("abc", "好")], "中国")], settings)
    asked = {"model": "tiny", "messages": messages, "max_completion_tokens": 20, "seed": 5, "logprobs": True, "top_logprobs": 1}
    answer = api.chat.completions.create(**asked)
    assert answer.choices[0].message.content == expected.text.strip()
    assert [each.token for each in answer.choices[0].logprobs.content] == [token.text for token in expected.tokens]
    chunks = list(api.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    texts, _ = streamed(chunks, lambda choice: choice.delta.content)
    assert texts == [expected.text.strip()]


def test_the_oldest_turns_make_room(api):
    """And a last turn that is too long by itself is refused in the engine's words."""
    turns = [{"role": role, "content": "a" * 9} for _ in range(9) for role in ("user", "assistant")]
    answer = api.chat.completions.create(model="tiny", messages=[*turns, {"role": "user", "content": "b"}], max_tokens=20)
    assert 20 < answer.usage.prompt_tokens <= 64 - 20
    with pytest.raises(openai.BadRequestError, match="the context of 64 has room for 63"):
        api.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a" * 80}])


def test_the_list_of_models(api):
    (listed,) = api.models.list().data
    assert (listed.id, listed.object) == ("tiny", "model")
    assert (listed.context_length, listed.vocabulary_size, listed.version) == (64, 43, 1)


def error(client, body, path="/v1/completions", status=400):
    answer = client.post(path, content=body if isinstance(body, (bytes, str)) else json.dumps(body))
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    return answer.json()["error"]


GOOD = {"model": "tiny", "prompt": "a"}
SAID = {"model": "tiny", "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"tools": []}, "tools"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 33}, "n"),
        ({"seed": 2**31}, "seed"),
        ({"seed": -1}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"3": 1}}, "logit_bias"),
        ({"logit_bias": {"9": 101}}, "logit_bias"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a"] * 33}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_is_wrong_is_named(client, change, param):
    assert error(client, json.dumps({**GOOD, **change}))["param"] == param


def test_bodies_that_are_none(client):
    for body in (
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"prompt": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"nul",
        b'"a"',
        b'{"prompt": "\\ud800"}',
    ):
        assert error(client, body)["param"] is None
    assert error(client, {**GOOD, "model": "gpt-4"}, status=404)["code"] == "model_not_found"
    assert error(client, {**GOOD, "min_tokens": 9, "max_tokens": 3})["message"].startswith("min_new_tokens must be from 0 to")
    assert "63" in error(client, {**GOOD, "prompt": "a" * 100})["message"]
    answer = client.get("/v1/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "system", "content": "a"}],
        [{"role": "tool", "content": "a"}],
        [{"role": "user", "content": " "}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user"}],
        ["a"],
        "a",
    ],
)
def test_messages_that_are_no_conversation(client, messages):
    assert error(client, {"model": "tiny", "messages": messages}, "/v1/chat/completions")["param"] == "messages"


def test_what_a_chat_does_not_take(client):
    for change, param in (
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"prompt": "a"}, "prompt"),
        ({"max_completion_tokens": 5000}, "max_tokens"),
    ):
        assert error(client, {**SAID, **change}, "/v1/chat/completions")["param"] == param
