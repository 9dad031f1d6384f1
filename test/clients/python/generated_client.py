"""A client that openapi-python-client made out of /openapi.json, against a
running node. SKEIN_GENERATED is the folder that it was made in."""

import os
import sys
import time

sys.path.insert(0, os.environ["SKEIN_GENERATED"])

from skein_client import AuthenticatedClient  # noqa: E402
from skein_client.api.cluster import get_cluster, get_node, list_nodes  # noqa: E402
from skein_client.api.inference import create_chat_completion  # noqa: E402
from skein_client.api.models import get_model_status, load_model, unload_model  # noqa: E402
from skein_client.models import (  # noqa: E402
    ChatCompletion,
    ChatCompletionRequest,
    ChatMessage,
    ChatMessageRole,
    ErrorResponse,
    LoadAnswer,
    LoadRequest,
    UnloadAnswer,
)

model = os.environ["SKEIN_MODEL"]
client = AuthenticatedClient(base_url=os.environ["SKEIN_BASE_URL"].removesuffix("/v1"), token=os.environ["SKEIN_API_KEY"], timeout=120)


def await_status(*wanted):
    for _ in range(1200):
        status = get_model_status.sync(name=model, client=client)
        if status.status in wanted:
            return status
        time.sleep(0.05)
    raise SystemExit(f"{model} is {status.status}, not {wanted}: {status.error}")


overview = get_cluster.sync(client=client)
assert overview.node_count == 1 and overview.total_ram_gb > 0 and overview.master_node_id == overview.nodes[0].node_id, overview
nodes = list_nodes.sync(client=client)
assert [n.node_id for n in nodes.nodes] == [n.node_id for n in overview.nodes], nodes
node = get_node.sync(id=nodes.nodes[0].node_id, client=client)
assert node.status == "online" and node.unmeasured is not None, node

dry = load_model.sync(client=client, body=LoadRequest(model_id=model, dry_run=True))
assert isinstance(dry, LoadAnswer) and dry.dry_run and not dry.instance_id and dry.placement.additional_properties, dry
assert get_model_status.sync(name=model, client=client).status == "not_loaded"

done = load_model.sync(client=client, body=LoadRequest(model_id=model), idempotency_key="generated-1")
assert isinstance(done, LoadAnswer) and done.command_id == "generated-1" and done.instance_id, done
again = load_model.sync(client=client, body=LoadRequest(model_id=model), idempotency_key="generated-1")
assert again.instance_id == done.instance_id, again
status = await_status("ready", "running")
assert status.ready and status.instance_id == done.instance_id, status

answer = create_chat_completion.sync(
    client=client,
    body=ChatCompletionRequest(
        model=model, messages=[ChatMessage(role=ChatMessageRole.USER, content="What is the capital of France?")], temperature=0.0, max_tokens=16
    ),
)
assert isinstance(answer, ChatCompletion) and answer.choices[0].message.content and answer.usage.completion_tokens > 0, answer

gone = unload_model.sync(name=model, client=client)
assert isinstance(gone, UnloadAnswer) and gone.instance_id == done.instance_id, gone
await_status("not_loaded")

# Errors come as their schema says, with their status.
refused = unload_model.sync_detailed(name=model, client=client)
assert refused.status_code == 404 and isinstance(refused.parsed, ErrorResponse), refused
assert refused.parsed.error.code == "model_not_loaded" and refused.parsed.error.param == "name", refused.parsed
refused = load_model.sync_detailed(client=client, body=LoadRequest(model_id=model, min_nodes=-1))
assert refused.status_code == 422 and refused.parsed.error.code == "invalid_value", refused
stranger = AuthenticatedClient(base_url=client._base_url, token="sk-nobody")
refused = get_cluster.sync_detailed(client=stranger)
assert refused.status_code == 401 and refused.parsed.error.code == "invalid_api_key", refused
