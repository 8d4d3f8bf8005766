"""The API as a page for people: one file of HTML from the OpenAPI document, which loads nothing from anywhere.

FastAPI's own pages take their scripts from another host, and would be blank offline.

Level 5. Knows OpenAPI documents; knows no engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --verb: #0f766e; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2rem; text-transform: capitalize; }
details { border: 1px solid var(--line); border-radius: 8px; margin: .5rem 0; }
summary { cursor: pointer; padding: .6rem .8rem; }
details > div { padding: 0 .8rem .8rem; overflow-x: auto; }
code, pre { font: 14px/1.5 ui-monospace, monospace; }
pre { background: var(--soft); border-radius: 6px; padding: .6rem; overflow-x: auto; }
b { color: var(--verb); font: 600 14px ui-monospace, monospace; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }
"""


def api_page(document: Mapping[str, Any]) -> str:
    """The whole page.

    Args:
        document: as OpenAPI 3.1 has it.
    """
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for verb, operation in operations.items():
            for tag in operation.get("tags", ["other"])[:1]:
                groups.setdefault(tag, []).append(_operation(verb, path, operation))
    info, schemas = document["info"], document.get("components", {}).get("schemas", {})
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} API</h1><p>{escape(info.get('description', ''))}</p>",
        '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>',
    ]
    parts += [f"<h2>{escape(tag)}</h2>{''.join(some)}" for tag, some in groups.items()]
    parts.append("<h2>Schemas</h2>")
    for name, schema in schemas.items():
        head = f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        parts.append(f"{head}<div>{_json(schema)}</div></details>")
    return "".join(parts)


def _operation(verb: str, path: str, operation: Mapping[str, Any]) -> str:
    said = operation.get("description") or operation.get("summary", "")
    inside = [f"<p>{escape(said)}</p>"]
    if operation.get("parameters"):
        rows = [
            f"<tr><td><code>{escape(one['name'])}</code><td>{escape(one['in'])}"
            f"<td>{'required' if one.get('required') else ''}<td>{_schema(one.get('schema', {}))}</tr>"
            for one in operation["parameters"]
        ]
        inside.append(f"<table>{''.join(rows)}</table>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        inside.append(f"<p>Body, <code>{escape(kind)}</code>: {_schema(content.get('schema', {}))}</p>")
    for status, answer in operation.get("responses", {}).items():
        kinds = ", ".join(
            f"<code>{escape(kind)}</code> {_schema(content.get('schema', {}))}"
            for kind, content in answer.get("content", {}).items()
        )
        inside.append(f"<p><b>{escape(status)}</b> {escape(answer.get('description', ''))} {kinds}</p>")
    head = f"<b>{escape(verb.upper())}</b> <code>{escape(path)}</code>"
    return f"<details><summary>{head}</summary><div>{''.join(inside)}</div></details>"


def _schema(schema: Mapping[str, Any]) -> str:
    """A link to a named schema, or a small one as it is."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}"><code>{name}</code></a>'
    return f"<code>{escape(json.dumps(schema))}</code>" if schema else ""


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
