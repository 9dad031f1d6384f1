"""LangChain's ChatOpenAI against a running node; see openai_client.py."""

import asyncio
import os

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

URL, MODEL = os.environ["SKEIN_BASE_URL"], os.environ["SKEIN_MODEL"]
common = {"base_url": URL, "api_key": "none", "model": MODEL, "temperature": 0, "max_retries": 0, "max_tokens": 24}
model = ChatOpenAI(**common)
turns = [SystemMessage("Be brief."), HumanMessage("What is the capital of France?")]

answer = model.invoke(turns)
assert answer.content.strip() and answer.response_metadata["finish_reason"] in ("stop", "length")
assert answer.usage_metadata["total_tokens"] == answer.usage_metadata["input_tokens"] + answer.usage_metadata["output_tokens"]

whole = None
for part in model.stream(turns, stream_usage=True):
    whole = part if whole is None else whole + part
assert whole.content == answer.content, (whole.content, answer.content)
assert whole.usage_metadata["output_tokens"] > 0

more = model.invoke([*turns, AIMessage(answer.content), HumanMessage("And of Italy?")])
assert more.content.strip()

assert len(model.batch([turns, turns, turns])) == 3
assert asyncio.run(model.ainvoke(turns)).content == answer.content
assert model.bind(logprobs=True).invoke(turns).response_metadata["logprobs"]["content"]
assert OpenAI(**common).invoke("Once upon a time").strip()
