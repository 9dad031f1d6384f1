"""The official MCP client for Python against a running node, over HTTP in both
generations of the protocol, and over the stdio of `skein mcp`.

SKEIN_BASE_URL, SKEIN_MODEL and SKEIN_PROGRAM say where, which, and what. The
client checks each structured answer against the schema of its tool.
"""

import asyncio
import json
import os

from mcp import Client, MCPError, StdioServerParameters

URL, MODEL = os.environ["SKEIN_BASE_URL"].removesuffix("/v1"), os.environ["SKEIN_MODEL"]
stdio = StdioServerParameters(command=os.environ["SKEIN_PROGRAM"], args=["mcp", "--host", URL], env=dict(os.environ))
question = {"model_id": MODEL, "messages": [{"role": "user", "content": "What is Skein?"}], "max_tokens": 24, "temperature": 0}


async def look(client):
    tools = {t.name: t for t in (await client.list_tools()).tools}
    assert {"cluster_overview", "list_models", "load_model", "unload_model", "swap_models", "chat"} <= set(tools), tools
    assert tools["list_models"].annotations.read_only_hint and not tools["load_model"].annotations.destructive_hint
    assert tools["unload_model"].annotations.destructive_hint and not tools["unload_model"].annotations.read_only_hint

    overview = (await client.call_tool("cluster_overview")).structured_content
    assert overview["node_count"] == 1 and overview["master_node_id"], overview
    node = overview["nodes"][0]["node_id"]
    assert (await client.call_tool("get_node", {"node": node})).structured_content["status"] == "online"
    assert MODEL in [m["model_id"] for m in (await client.call_tool("list_models")).structured_content["library"]]

    assert {str(r.uri) for r in (await client.list_resources()).resources} >= {"skein://cluster", "skein://models"}
    document = (await client.read_resource(f"skein://models/{MODEL}")).contents[0]
    assert json.loads(document.text)["status"]["model_id"] == MODEL, document
    try:
        await client.read_resource("skein://models/nothing")
    except MCPError as e:
        assert "nothing" in str(e), e
    else:
        raise AssertionError("a model that is not there was read")


async def refused(client):
    for tool, arguments, want in [
        ("load_model", {"model_id": "nothing"}, "Next: call list_models"),
        ("load_model", {"model_id": MODEL, "min_nodes": 9}, "Next: lower min_nodes"),
        ("load_model", {"model_id": MODEL, "min_nodes": "two"}, "min_nodes: expected integer"),
    ]:
        answer = await client.call_tool(tool, arguments)
        assert answer.is_error and want in answer.content[0].text, answer


async def change(client):
    """Unload, see it gone, load it again with progress, and chat."""
    await client.call_tool("load_model", {"model_id": MODEL})  # an error if it is there
    gone = await client.call_tool("unload_model", {"model_id": MODEL, "drain_seconds": 0})
    assert not gone.is_error and gone.structured_content["model_id"] == MODEL, gone
    plan = await client.call_tool("plan_load", {"model_id": MODEL})
    assert not plan.is_error and plan.structured_content["dry_run"] and plan.structured_content["explanation"], plan
    told = []

    async def progress(_progress, _total, message):
        told.append(message)

    loaded = await client.call_tool("load_model", {"model_id": MODEL, "wait_seconds": 50}, progress_callback=progress)
    assert not loaded.is_error and loaded.structured_content["ready"], loaded
    assert told and told[-1].endswith("is ready"), told
    status = (await client.call_tool("model_status", {"model_id": MODEL})).structured_content
    assert status["ready"] and status["nodes"], status

    answer = await client.call_tool("chat", question)
    chat = answer.structured_content
    assert not answer.is_error and chat["text"].strip() and answer.content[0].text.startswith(chat["text"]), answer
    assert chat["usage"]["total_tokens"] == chat["usage"]["prompt_tokens"] + chat["usage"]["completion_tokens"], chat
    assert (await client.call_tool("chat", question)).structured_content["text"] == chat["text"]


async def main():
    for server, mode in [(URL + "/mcp", "auto"), (URL + "/mcp", "legacy"), (stdio, "auto"), (stdio, "legacy")]:
        async with Client(server, mode=mode) as client:
            await look(client)
            await refused(client)
            await change(client)


asyncio.run(main())
