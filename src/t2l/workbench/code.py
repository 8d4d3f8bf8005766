"""The code that does what the page just did: Python, curl, the command line.

Level 6. Descriptions are quoted by each language's own rules, so that whatever they hold stays text.
"""

from __future__ import annotations

import json
import re
import shlex

from t2l.errors import T2LError

_HOST = re.compile(r"[A-Za-z0-9.\-]+(:\d{1,5})?|\[[0-9A-Fa-f:]+\](:\d{1,5})?")


def address_of(scheme: str, host: str) -> str:
    """The server's address as the browser names it.

    Raises:
        T2LError: the browser names nothing that could be a host.
    """
    if scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise T2LError(f"'{host[:80]}' is no address of a server.")
    return f"{scheme}://{host}"


def python(address: str, base: str, description: str, text: str, strength: float) -> str:
    """With OpenAI's client."""
    extra = _extra(description, strength)
    return f"""\
from openai import OpenAI

client = OpenAI(base_url={address + "/v1"!r}, api_key="none")
answer = client.chat.completions.create(
    model={base!r},
    messages=[{{"role": "user", "content": {text!r}}}],
    temperature=0,
    extra_body={extra!r},
)
print(answer.choices[0].message.content)
"""


def curl(address: str, description: str, text: str, strength: float) -> str:
    """Against the same server."""
    body = {"temperature": 0, **_extra(description, strength), "messages": [{"role": "user", "content": text}]}
    return (
        f"curl -s {address}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}\n"
    )


def shell(description: str, text: str, strength: float) -> str:
    """Without a server: the answer, and the adapter's folder for PEFT, vLLM and others."""
    more = "" if strength == 1 else f" --strength {strength:g}"
    quoted = ("-- " if description.startswith("-") else "") + shlex.quote(description)
    return (
        f"t2l run --input={shlex.quote(text)}{more} {quoted}\n"
        f"t2l generate --out my-adapter{more} {quoted}\n"
        "t2l export my-adapter --to gguf --out adapter.gguf\n"
    )


def _extra(description: str, strength: float) -> dict[str, object]:
    return {"task_description": description, **({} if strength == 1 else {"strength": strength})}
