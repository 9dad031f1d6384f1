"""What schemathesis can't know of the requests that it makes up."""

import re
import uuid

import schemathesis

# What a right request may ask for at most here, by what the document allows: a
# test machine has not room for 64 replicas.
CAPS = {"replicas": (64, 2), "slots": (256, 4), "context_length": (1 << 30, 1024), "n": (16, 2), "max_tokens": (1 << 30, 8), "max_completion_tokens": (1 << 30, 8)}


@schemathesis.hook
def before_call(context, case, kwargs):
    # A key that came before with another request is refused, and short ones are
    # made up again and again: each right one becomes new.
    for name, value in (case.headers or {}).items():
        if name.lower() == "idempotency-key" and re.fullmatch("[!-~]{1,200}", str(value)):
            case.headers[name] = str(uuid.uuid4())
    if isinstance(case.body, dict):
        for name, (highest, cap) in CAPS.items():
            value = case.body.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1 and cap < value <= highest:
                case.body[name] = cap
        if ("messages" in case.body or "prompt" in case.body) and not {"max_tokens", "max_completion_tokens"} & case.body.keys():
            case.body["max_tokens"] = 8


@schemathesis.hook
def filter_case(context, case):
    # null counts as left out, also in fields of which the document does not say
    # so: clients of Python and JavaScript write what is not set that way.
    if isinstance(case.body, dict) and None in case.body.values():
        return False
    # Made-up lengths are no HTTP: Go's server answers them before anything of ours
    # sees them, in plain text.
    return not any(name.lower() in ("content-length", "transfer-encoding") for name in case.headers or {})
