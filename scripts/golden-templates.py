#!/usr/bin/env python3
"""Renders chat templates with Python's Jinja2, as the transformers library
sets it up, and writes what comes out as JSON: the golden renderings that
internal/chat is tested against.

  golden-templates.py CASES.json FOLDER OUT.json

FOLDER holds *.jinja files; every case is rendered with each of them. A
template that raises has {"error": message} in place of {"text": text}.
Needs jinja2==3.1.6. It runs when golden files are made, not in tests.
"""
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

WANTED = "3.1.6"
NOW = datetime.datetime(2026, 11, 22, 8, 5, 0)


class Generation(jinja2.ext.Extension):
    """{% generation %} marks the assistant's text for training; it prints its body."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = to_json
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def main():
    if jinja2.__version__ != WANTED:
        sys.exit(f"jinja2 is {jinja2.__version__}, but golden files are made with {WANTED}: pip install jinja2=={WANTED}")
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    cases = json.loads(pathlib.Path(sys.argv[1]).read_text())
    golden = {}
    for path in sorted(pathlib.Path(sys.argv[2]).glob("*.jinja")):
        source = path.read_text()
        golden[path.name] = {}
        for case in cases:
            variables = {
                "messages": case["messages"],
                "tools": case.get("tools"),
                "documents": None,
                "add_generation_prompt": case.get("add_generation_prompt", True),
                "bos_token": "<s>",
                "eos_token": "</s>",
                **case.get("args", {}),
            }
            try:
                result = {"text": environment().from_string(source).render(**variables)}
            except Exception as error:  # whatever a template does wrong is its result
                result = {"error": str(error)}
            golden[path.name][case["name"]] = result
    pathlib.Path(sys.argv[3]).write_text(json.dumps(golden, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


main()
