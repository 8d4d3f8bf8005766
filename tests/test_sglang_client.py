"""The SGLang client against a local server that answers as SGLang does."""

from __future__ import annotations

import base64
import json
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from helpers import random_weights, tiny_config
from t2l.adapter import Adapter
from t2l.errors import T2LError
from t2l.lora import LoraSpec
from t2l.serving.sglang_client import SglangClient


class Server(ThreadingHTTPServer):
    """Holds adapters by name, as SGLang's tokenizer manager does, and remembers what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.adapters: dict[str, dict[str, str]] = {}
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.raw: bytes | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, body, self.headers.get("Authorization")))
        name, held = body.get("lora_name"), self.server.adapters
        if self.server.raw is not None:
            return self.answer(200, self.server.raw)
        if self.path == "/generate":
            under = body.get("lora_path")
            return self.answer(200, json.dumps({"text": f"{body['text']} under {under}", "meta_info": {}}).encode())
        error = None
        if self.path.startswith("/load_lora_adapter"):
            error = f"Failed to load LoRA adapter {name}: it is already loaded." if name in held else None
            held.setdefault(name, {"lora_id": "1", "lora_name": name, "lora_path": body.get("lora_path", "__tensor__")})
        elif name not in held:
            error = f"LoRA with name {name} does not exist."
        else:
            del held[name]
        record = {"success": error is None, "error_message": error, "loaded_adapters": held}
        self.answer(200 if error is None else 400, json.dumps(record).encode())

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def adapter() -> Adapter:
    spec = LoraSpec.from_base(tiny_config(), rank=3)
    return Adapter(spec, random_weights(spec, std=0.3), {"description": "sort"})


def pack(tensors: dict[str, torch.Tensor]) -> str:
    return base64.b64encode(save(tensors)).decode()


def test_a_folder_is_pushed_used_and_removed(server: Server, adapter: Adapter, tmp_path: Path) -> None:
    folder = adapter.save(tmp_path / "a")
    client = SglangClient(f"{server.url}/", api_key="secret")
    assert client.push("sort", folder, pinned=True) == ["sort"]
    path, body, key = server.requests[-1]
    assert (path, key) == ("/load_lora_adapter", "Bearer secret")
    assert body == {"lora_name": "sort", "lora_path": str(folder.resolve()), "pinned": True}
    assert client.generate("b a", adapter="sort", max_new_tokens=4, temperature=0) == "b a under sort"
    assert server.requests[-1][1]["sampling_params"] == {"max_new_tokens": 4, "temperature": 0}
    assert client.generate("b a") == "b a under None"
    assert client.remove("sort") == []


@pytest.mark.parametrize("field", [None, "serialized_named_tensors"])
def test_tensors_are_sent_with_the_scaling_inside(server: Server, adapter: Adapter, field: Any) -> None:
    assert SglangClient(server.url).push_tensors("sort", adapter, pack=pack, field=field, ranks=2) == ["sort"]
    path, body, _ = server.requests[-1]
    assert path == "/load_lora_adapter_from_tensors"
    content = body["serialized_tensors"] if field is None else body[field]
    copies = [content] if field is None else content
    assert len(copies) == (1 if field is None else 2)
    config, tensors = body["config_dict"], load(base64.b64decode(copies[-1]))
    scaling = config["lora_alpha"] / config["r"]  # what SGLang applies, whatever use_rslora says
    for path in adapter.spec.module_paths():
        prefix = f"base_model.model.{path}"
        found = scaling * tensors[f"{prefix}.lora_B.weight"] @ tensors[f"{prefix}.lora_A.weight"]
        torch.testing.assert_close(found, adapter.delta(path), rtol=1e-5, atol=1e-6)


def test_the_installed_sglang_packs_for_its_own_version(
    server: Server, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SglangClient(server.url)
    with pytest.raises(T2LError, match="SGLang of the server's version must be installed"):
        client.push_tensors("sort", adapter)

    class Serializer:
        @staticmethod
        def serialize(tensors: dict[str, torch.Tensor], output_str: bool = False) -> str:
            assert output_str
            return pack(tensors)

    request = types.SimpleNamespace(__struct_fields__=("lora_name", "serialized_named_tensors"))
    for name, values in {
        "sglang": {},
        "sglang.srt": {},
        "sglang.srt.utils": {"MultiprocessingSerializer": Serializer},
        "sglang.srt.managers": {},
        "sglang.srt.managers.io_struct": {"LoadLoRAAdapterFromTensorsReqInput": request},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, module)
    assert client.push_tensors("sort", adapter) == ["sort"]
    assert isinstance(server.requests[-1][1]["serialized_named_tensors"], list)


def test_an_adapter_that_sglang_would_scale_wrong_is_not_sent(server: Server, adapter: Adapter, tmp_path: Path) -> None:
    folder = adapter.save(tmp_path / "a", form="rslora")
    with pytest.raises(T2LError, match=r"(?s)does not honour.*t2l export"):
        SglangClient(server.url).push("sort", folder)
    assert not server.requests


def test_what_the_server_refuses_is_said_in_its_words(server: Server, adapter: Adapter, tmp_path: Path) -> None:
    client, folder = SglangClient(server.url), adapter.save(tmp_path / "a")
    client.push("sort", folder)
    with pytest.raises(T2LError, match=r"answered 400: Failed to load LoRA adapter sort: it is already loaded"):
        client.push("sort", folder)
    with pytest.raises(T2LError, match="does not exist"):
        client.remove("other")
    for raw, message in (
        (b"<html>", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"success": false, "error_message": "no room"}', "SGLang refused: no room"),
        (b'{"detail": "?"}', "SGLang refused"),
    ):
        server.raw = raw
        with pytest.raises(T2LError, match=message):
            client.remove("sort")
    with pytest.raises(T2LError, match="without a text"):
        client.generate("x")


def test_no_server_and_no_address() -> None:
    with pytest.raises(T2LError, match="cannot be reached"):
        SglangClient("http://127.0.0.1:9", timeout=2).remove("x")
    with pytest.raises(T2LError, match="not the address"):
        SglangClient("127.0.0.1:30000")
