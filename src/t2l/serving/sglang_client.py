"""A client that loads adapters into a running SGLang server and unloads them, over its HTTP interface.

Level 5. The standard library alone; SGLang itself is imported only to pack tensors the way its server unpacks them.
SGLang does not honour ``use_rslora`` (sgl-project/sglang#40835), so everything is sent in the portable form.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from t2l.adapter import Adapter
from t2l.errors import T2LError

Packer = Callable[[dict[str, Tensor]], str]
"""Tensors by PEFT's names -> the text that the server unpacks."""

Field = Literal["serialized_tensors", "serialized_named_tensors"]
"""Where a request carries the packed tensors: one text (SGLang to about 0.5.8), or a list with one for each rank."""

_LONGEST = 300  # characters of a server's answer in an error


class SglangClient:
    """One SGLang server that was started with ``--enable-lora``.

    Args:
        url: ``http://host:30000``.
        api_key: sent as a bearer token.
        timeout: seconds for a request.

    Raises:
        T2LError: the URL is not http or https.

    Example:
        >>> client = SglangClient("http://127.0.0.1:30000")
        >>> client.push("sort", "adapters/sort-words")  # doctest: +SKIP
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 60.0) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise T2LError(f"'{url}' is not the address of a server.", "It looks like http://127.0.0.1:30000")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def push(self, name: str, folder: str | Path, *, pinned: bool = False) -> list[str]:
        """Has the server read an adapter folder under ``name``; returns the names of all that it holds now.

        Args:
            folder: an adapter in the portable form, at a place where the server sees it as well.
            pinned: keep it on the GPU.

        Raises:
            T2LError: the folder leaves its scaling to the runtime, or the server cannot be reached or refuses.
        """
        place = Path(folder).expanduser().resolve()
        scaling = Adapter.load(place).spec
        if scaling.use_rslora:
            raise T2LError(
                f"The adapter in '{folder}' relies on use_rslora, which SGLang does not honour.",
                f"Write it in the portable form first: t2l export {folder} --to peft --out NEW",
            )
        return self._update("/load_lora_adapter", {"lora_name": name, "lora_path": str(place), "pinned": pinned})

    def push_tensors(
        self,
        name: str,
        adapter: Adapter,
        *,
        pinned: bool = False,
        pack: Packer | None = None,
        field: Field | None = None,
        ranks: int = 1,
    ) -> list[str]:
        """Sends an adapter itself, without a folder between; returns the names of all that the server holds now.

        SGLang unpacks the tensors with an unpickler that is known to be unsafe (CVE-2026-15969, sglang#30165): keep its
        port from everybody whom you would not let run code there. `push` needs no such thing.

        Args:
            pack: by default the packer of the SGLang that is installed beside t2l, of the server's version.
            field: by default what the installed SGLang has; ``"serialized_tensors"`` where ``pack`` is given.
            ranks: tensor-parallel ranks of the server, each of which gets a copy where the field is a list.

        Raises:
            T2LError: SGLang is not installed and no packer is given, or the server cannot be reached or refuses.
        """
        if pack is None:
            pack, known = _installed_packer()
            field = field or known
        whole = adapter.portable()
        packed = pack(whole.state_dict())
        field = field or "serialized_tensors"
        content = [packed] * ranks if field == "serialized_named_tensors" else packed
        config = whole.peft_config("portable")
        request = {"lora_name": name, "config_dict": config, field: content, "pinned": pinned}
        return self._update("/load_lora_adapter_from_tensors", request)

    def remove(self, name: str) -> list[str]:
        """Takes an adapter off the server; returns the names of those that are left."""
        return self._update("/unload_lora_adapter", {"lora_name": name})

    def generate(self, text: str, *, adapter: str | None = None, **sampling: Any) -> str:
        """The server's continuation of ``text``, under an adapter that it holds.

        Args:
            sampling: SGLang's ``sampling_params``, such as ``max_new_tokens=64, temperature=0``.
        """
        request: dict[str, Any] = {"text": text, "sampling_params": sampling}
        if adapter is not None:
            request["lora_path"] = adapter
        answer = self._post("/generate", request)
        if not isinstance(answer.get("text"), str):
            raise T2LError(f"{self.url}/generate answered without a text: {_short(answer)}")
        return answer["text"]

    def _update(self, path: str, request: Mapping[str, Any]) -> list[str]:
        answer = self._post(path, request)
        if not answer.get("success"):
            raise T2LError(f"SGLang refused: {answer.get('error_message') or _short(answer)}")
        return sorted(answer.get("loaded_adapters") or {})

    def _post(self, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
        body = json.dumps(request).encode()
        call = urllib.request.Request(f"{self.url}{path}", data=body, headers=self._headers, method="POST")
        try:
            with urllib.request.urlopen(call, timeout=self.timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as problem:  # SGLang says why in the body
            content = problem.read()
            try:
                reason = _record(content).get("error_message") or _short(content.decode(errors="replace"))
            except T2LError:
                reason = _short(content.decode(errors="replace"))
            raise T2LError(f"SGLang at {self.url}{path} answered {problem.code}: {reason}") from problem
        except OSError as problem:
            reason = getattr(problem, "reason", None) or problem
            raise T2LError(f"SGLang at {self.url} cannot be reached: {reason}.", "Is it running?") from problem
        return _record(content)


def _record(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as problem:
        raise T2LError(f"The server's answer is not JSON: {_short(content.decode(errors='replace'))}") from problem
    if not isinstance(value, dict):
        raise T2LError(f"The server's answer is not a JSON object: {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _installed_packer() -> tuple[Packer, Field]:
    """The packer and the field of the SGLang that is installed here."""
    try:
        from sglang.srt.managers.io_struct import (  # pyright: ignore[reportMissingImports]
            LoadLoRAAdapterFromTensorsReqInput,
        )
        from sglang.srt.utils import MultiprocessingSerializer  # pyright: ignore[reportMissingImports]
    except ImportError as problem:
        raise T2LError(
            "To send tensors, SGLang of the server's version must be installed here as well, or a packer given.",
            "Or save the adapter where the server sees it and use push.",
        ) from problem
    kind: Any = LoadLoRAAdapterFromTensorsReqInput
    known = set(getattr(kind, "__struct_fields__", ()) or getattr(kind, "__dataclass_fields__", ()))

    def pack(tensors: dict[str, Tensor]) -> str:
        return MultiprocessingSerializer.serialize(tensors, output_str=True)

    return pack, "serialized_named_tensors" if "serialized_named_tensors" in known else "serialized_tensors"
