"""The official OpenAI client for Python against a running node.

SKEIN_BASE_URL and SKEIN_MODEL say where and which. Exits 0 when all is well;
any other outcome is an exception with what was found.
"""

import asyncio
import os

import openai

URL, MODEL = os.environ["SKEIN_BASE_URL"], os.environ["SKEIN_MODEL"]
client = openai.OpenAI(base_url=URL, api_key="none", max_retries=0)
chat = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_completion_tokens": 24,
}


def models():
    assert MODEL in [m.id for m in client.models.list()]
    assert client.models.retrieve(MODEL.upper()).id == MODEL


def whole():
    answer = client.chat.completions.create(**chat)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == MODEL
    assert choice.message.role == "assistant" and choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens >= 0
    return choice.message.content


def streamed(want):
    text, role, finish, usage = "", None, None, None
    for chunk in client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}):
        if not chunk.choices:
            usage = chunk.usage
            continue
        role = role or chunk.choices[0].delta.role
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    assert (text, role) == (want, "assistant"), (text, want, role)
    assert finish in ("stop", "length") and usage.total_tokens > 0


def helper(want):
    with client.chat.completions.stream(**chat) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == want


def parameters():
    answer = client.chat.completions.create(
        **{**chat, "temperature": 0.8},
        n=2, seed=7, top_p=0.9, presence_penalty=0.5, frequency_penalty=0.5, logit_bias={"5": -100},
        stop=["\n\n\n"], logprobs=True, top_logprobs=3, user="tester", metadata={"a": "b"},
        extra_body={"top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1},
    )
    assert [c.index for c in answer.choices] == [0, 1]
    for choice in answer.choices:
        tokens = choice.logprobs.content
        assert b"".join(bytes(t.bytes) for t in tokens).decode(errors="replace").startswith(choice.message.content[:1])
        for token in tokens:
            assert token.logprob <= 0 and len(token.top_logprobs) == 3
    parts = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert client.chat.completions.create(**{**chat, "messages": turns}).choices


def texts():
    answer = client.completions.create(model=MODEL, prompt=["One", "Two"], n=2, max_tokens=4, temperature=0)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    echo = client.completions.create(model=MODEL, prompt="One", max_tokens=4, temperature=0, echo=True)
    assert echo.choices[0].text == "One" + answer.choices[0].text
    legacy = client.completions.create(model=MODEL, prompt=[1, 2, 3], max_tokens=4, logprobs=2).choices[0].logprobs
    assert len(legacy.tokens) == len(legacy.token_logprobs) == len(legacy.top_logprobs) == len(legacy.text_offset)
    text = "".join(c.choices[0].text for c in client.completions.create(model=MODEL, prompt="One", max_tokens=4, temperature=0, stream=True))
    assert text == answer.choices[0].text


def refused(kind, code, param, **change):
    try:
        client.chat.completions.create(**{**chat, **change})
    except kind as e:
        assert (e.code, e.param) == (code, param), (e.code, e.param)
    else:
        raise AssertionError(f"{change} was accepted")


def errors():
    refused(openai.NotFoundError, "model_not_found", "model", model="no-such-model")
    refused(openai.BadRequestError, "decimal_above_max_value", "temperature", temperature=2.5)
    refused(openai.BadRequestError, "empty_array", "messages", messages=[])
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    refused(openai.BadRequestError, "unsupported_parameter", "tools", tools=[tool])
    refused(openai.BadRequestError, "unsupported_parameter", "response_format", response_format={"type": "json_object"})
    long = [{"role": "user", "content": "word " * 200000}]
    refused(openai.BadRequestError, "context_length_exceeded", "messages", messages=long)


async def concurrent(want):
    many = openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0)
    answers = await asyncio.gather(*(many.chat.completions.create(**chat) for _ in range(8)))
    assert all(a.choices[0].message.content for a in answers)
    # Leaving a stream early must not disturb what follows.
    async with await many.chat.completions.create(**chat, stream=True) as stream:
        async for _ in stream:
            break
    await many.close()
    assert whole() == want


models()
content = whole()
streamed(content)
helper(content)
parameters()
texts()
errors()
asyncio.run(concurrent(content))
