"""The vLLM plugin: ``t2l/<description>`` becomes an adapter on disk, once; what is not ours is left to others.

The fast tests use stand-ins with the interface of vLLM 0.33 (`vllm.lora.resolver`, `vllm.lora.request`); the slow one
uses vLLM itself where it is installed: ``make test-vllm`` brings its wheel without what it needs to run a model.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import types
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from helpers import tiny_config
from t2l.adapter import Adapter
from t2l.encoders.one_hot import OneHotEncoder
from t2l.errors import OutputError, T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora
from t2l.serving import vllm_plugin
from t2l.serving.vllm_plugin import AdapterFolder, integer_id, register, resolver_from, store_from_environment

BASE = "org/base"
TASKS = ["add three", "drop the last word", "answer in capitals"]
SOURCE = Path(__file__).resolve().parents[1] / "src"


class LoRAResolver(ABC):
    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any: ...


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False


class Registry:
    def __init__(self) -> None:
        self.resolvers: dict[str, Any] = {}

    def get_supported_resolvers(self) -> Any:
        return self.resolvers.keys()

    def register_resolver(self, resolver_name: str, resolver: Any) -> None:
        assert resolver_name not in self.resolvers, "vLLM warns here"
        self.resolvers[resolver_name] = resolver


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Modules of the names that the plugin imports from."""
    registry = Registry()
    for name, values in {
        "vllm": {},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.lora.resolver": {"LoRAResolver": LoRAResolver, "LoRAResolverRegistry": registry},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, module)
    return registry


def tiny_t2l(base: str | None = BASE) -> TextToLora:
    spec = LoraSpec.from_base(tiny_config(), rank=3)
    spec = LoraSpec.from_dict({**spec.to_dict(), "base_model": base})
    hypernetwork = HyperNetwork(spec, len(TASKS), trunk_dim=8, head_dim=8, head_init="linear", seed=4)
    return TextToLora(OneHotEncoder(TASKS), hypernetwork)


@pytest.fixture
def store(tmp_path: Path) -> AdapterFolder:
    return AdapterFolder(tmp_path / "store", tiny_t2l, limit=2)


def ask(store: AdapterFolder, name: str, base: str = BASE) -> LoRARequest | None:
    return asyncio.run(resolver_from(store, LoRAResolver, LoRARequest).resolve_lora(base, name))


def test_a_description_becomes_an_adapter_that_any_runtime_scales_right(store: AdapterFolder) -> None:
    found = ask(store, "t2l/add three")
    assert found is not None
    adapter, (expected,) = Adapter.load(found.lora_path), tiny_t2l().generate(["add three"])
    assert adapter.digest == expected.digest and adapter.spec.scaling == 1.0
    config = json.loads((Path(found.lora_path) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE and config["use_rslora"] is False
    assert (found.lora_name, found.base_model_name) == ("t2l/add three", BASE)
    assert 0 < found.lora_int_id < 2**31


def test_the_same_description_gives_the_same_ids_and_is_made_once(store: AdapterFolder, tmp_path: Path) -> None:
    first = ask(store, "t2l/add three")
    assert first is not None
    before = (Path(first.lora_path) / "adapter_model.safetensors").stat()
    again = ask(store, "t2l/  add three ")
    restarted = ask(AdapterFolder(tmp_path / "store", tiny_t2l), "t2l/add three")  # another process, or the next day
    identity = Path(first.lora_path).name
    by_id = ask(store, f"t2l/{identity}")
    for other in (again, restarted, by_id):
        assert other is not None
        assert (other.lora_path, other.lora_int_id) == (first.lora_path, first.lora_int_id)
    assert (Path(first.lora_path) / "adapter_model.safetensors").stat() == before
    second = ask(store, "t2l/drop the last word")
    assert second is not None and second.lora_int_id != first.lora_int_id
    assert integer_id("00000000" + "0" * 16) == 1


def test_what_is_not_ours_is_left_to_others(store: AdapterFolder) -> None:
    assert ask(store, "sql-lora") is None
    assert ask(store, "t2l/" + "0" * 24) is None  # an id that is not there
    assert not store.folder.exists()


def test_another_base_is_refused_in_the_log_and_not_served(
    store: AdapterFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert ask(store, "t2l/add three", base="org/other") is None
    assert "T2L_VLLM_BASE=org/other" in caplog.text
    named = AdapterFolder(tmp_path / "named", tiny_t2l, base_name="/models/copy")
    assert ask(named, "t2l/add three", base="/models/copy") is not None
    assert ask(named, "t2l/add three", base=BASE) is None
    folder = tmp_path / "base"
    folder.mkdir()
    same = AdapterFolder(tmp_path / "same", lambda: tiny_t2l(str(folder)))
    assert ask(same, "t2l/add three", base=f"{folder}/../base") is not None


@pytest.mark.parametrize("text", ["", "   ", "not in the list", "../../etc/passwd", "x" * 100_000, "a\0b"])
def test_no_text_of_a_request_breaks_the_server_or_leaves_the_store(
    store: AdapterFolder, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(store, f"t2l/{text}") is None
    assert len(caplog.text) < 3000  # a long text does not fill the log
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_store_takes_no_more_but_serves_what_it_has(store: AdapterFolder, caplog: Any) -> None:
    assert ask(store, f"t2l/{TASKS[0]}") and ask(store, f"t2l/{TASKS[1]}")
    assert ask(store, f"t2l/{TASKS[2]}") is None
    assert "holds 2 adapters and takes no more" in caplog.text
    assert ask(store, f"t2l/{TASKS[0]}") is not None


def test_requests_at_once_make_one_adapter(store: AdapterFolder) -> None:
    loads: list[int] = []

    def load() -> TextToLora:
        loads.append(1)
        return tiny_t2l()

    shared = AdapterFolder(store.folder, load)
    resolver = resolver_from(shared, LoRAResolver, LoRARequest)

    async def many() -> list[Any]:
        return await asyncio.gather(*(resolver.resolve_lora(BASE, f"t2l/{TASKS[n % 2]}") for n in range(16)))

    found = asyncio.run(many())
    assert len({request.lora_path for request in found}) == 2 and loads == [1]


def test_what_is_there_is_found_while_another_is_made(store: AdapterFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    known = store.resolve(BASE, f"t2l/{TASKS[0]}")
    begun, go_on = threading.Event(), threading.Event()
    generate = TextToLora.generate

    def slow(self: TextToLora, texts: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return generate(self, texts)

    monkeypatch.setattr(TextToLora, "generate", slow)
    with ThreadPoolExecutor(2) as pool:
        made = pool.submit(store.resolve, BASE, f"t2l/{TASKS[1]}")
        assert begun.wait(30)
        assert pool.submit(store.resolve, BASE, f"t2l/{TASKS[0]}").result(10) == known and not made.done()
        go_on.set()
        assert made.result(30) is not None


def test_two_processes_share_one_store(tmp_path: Path) -> None:
    """As several vLLM workers do: what both make at once is one adapter, whole, and each finds what the other made."""
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from t2l.model import TextToLora\n"
        "from t2l.serving.vllm_plugin import AdapterFolder\n"
        "store = AdapterFolder(Path(sys.argv[1]), TextToLora.from_pretrained)\n"
        "base = TextToLora.from_pretrained().spec.base_model\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(json.dumps([str(store.resolve(base, f't2l/Add {n} to the number.')[1]) for n in range(6)]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "store")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    first, second = (json.loads(worker.communicate(timeout=120)[0]) for worker in workers)
    assert first == second and len(set(first)) == 6
    assert sorted(str(path) for path in (tmp_path / "store").iterdir()) == sorted(first)  # no half folder is left
    t2l = TextToLora.from_pretrained()
    for number, folder in enumerate(first):
        (own,) = t2l.generate([f"Add {number} to the number."])
        assert Adapter.load(folder).digest == own.portable().digest


def test_two_processes_may_make_the_same_adapter(store: AdapterFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Adapter.save

    def slower(self: Adapter, folder: Any, **options: Any) -> Path:
        save(self, folder)  # the other process was quicker
        return save(self, folder, **options)

    monkeypatch.setattr(Adapter, "save", slower)
    assert ask(store, "t2l/add three") is not None


def test_a_store_that_cannot_be_written_is_an_error_in_the_log(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("")
    assert ask(AdapterFolder(tmp_path / "file" / "store", tiny_t2l), "t2l/add three") is None
    assert "cannot be made" in caplog.text


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="accounts have no numbers here")
def test_a_shared_folder_of_another_account_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_plugin, "_SHARED_MEMORY", tmp_path)
    store = AdapterFolder(tmp_path / "t2l", tiny_t2l)
    store.resolve(BASE, "t2l/add three")
    assert store.folder.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(OutputError, match="belongs to another account"):
        store.resolve(BASE, "t2l/drop the last word")


# ------------------------------------------------------------------------------------------------ registration


def test_it_registers_once_and_only_where_it_is_asked_for(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("T2L_CHECKPOINT", raising=False)
    register()
    assert not registry.resolvers
    tiny_t2l().save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setenv("T2L_CHECKPOINT", str(tmp_path / "checkpoint"))
    monkeypatch.setenv("T2L_VLLM_STORE", str(tmp_path / "store"))
    register()
    register()  # vLLM calls it in every process, perhaps again
    assert list(registry.resolvers) == ["t2l"] and not (tmp_path / "store").exists()
    resolver = registry.resolvers["t2l"]
    assert isinstance(resolver, LoRAResolver)
    found = asyncio.run(resolver.resolve_lora(BASE, "t2l/add three"))
    assert found is not None and Path(found.lora_path).parent == tmp_path / "store"


def test_a_wrong_setting_does_not_stop_the_server(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("T2L_CHECKPOINT", "smollm2-135m")
    monkeypatch.setenv("T2L_VLLM_ADAPTERS", "many")
    register()
    assert not registry.resolvers and "T2L_VLLM_ADAPTERS is 'many'" in caplog.text
    with pytest.raises(T2LError, match="'many'"):
        store_from_environment({"T2L_CHECKPOINT": "x", "T2L_VLLM_ADAPTERS": "many"})


def test_a_missing_checkpoint_is_a_404_and_not_a_crash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_from_environment({"T2L_CHECKPOINT": str(tmp_path / "none"), "T2L_VLLM_STORE": str(tmp_path / "s")})
    assert store is not None
    assert ask(store, "t2l/add three") is None
    assert "There is no folder" in caplog.text


def test_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"T2L_CHECKPOINT": "smollm2-135m", "T2L_CACHE": str(tmp_path)}
    monkeypatch.setattr(vllm_plugin, "_SHARED_MEMORY", tmp_path / "shm")
    assert store_from_environment(settings).folder == tmp_path / "t2l" / "vllm-adapters"  # type: ignore[union-attr]
    (tmp_path / "shm").mkdir()
    assert store_from_environment(settings).folder.parent == tmp_path / "shm"  # type: ignore[union-attr]
    chosen = store_from_environment({**settings, "T2L_VLLM_STORE": "/mnt/all-nodes", "T2L_VLLM_ADAPTERS": "7"})
    assert chosen is not None and (chosen.folder, chosen.limit) == (Path("/mnt/all-nodes"), 7)


def test_the_entry_point_leads_to_it() -> None:
    found = [entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "t2l"]
    if not found:
        import tomllib  # a source folder that is not installed, or was before the entry point

        project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
        module, _, name = project["entry-points"]["vllm.general_plugins"]["t2l"].partition(":")
        assert getattr(sys.modules[module], name) is register
    else:
        assert found[0].load() is register


def test_the_ranges_of_dependencies_admit_what_vllm_asks_for() -> None:
    from packaging.requirements import Requirement

    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader for TOML")
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    ranges = [Requirement(text) for text in asked]
    for name, versions in {"torch": ["2.14.0"], "transformers": ["5.16.1", "5.20.0"]}.items():  # vLLM 0.33
        own = [one.specifier for one in ranges if one.name == name]
        assert own and all(version in specifier for specifier in own for version in versions)


def test_importing_it_and_registering_imports_neither_torch_nor_a_checkpoint() -> None:
    program = (
        "import sys, os; os.environ.pop('T2L_CHECKPOINT', None)\n"
        "from t2l.serving.vllm_plugin import register; register()\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'peft', 't2l.model'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.strip() == "[]", ended.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what vLLM says on a machine without a GPU
def test_with_vllms_own_classes(store: AdapterFolder) -> None:
    resolvers = pytest.importorskip("vllm.lora.resolver", reason="vLLM is not installed", exc_type=ImportError)
    from vllm.lora.request import LoRARequest as Request  # pyright: ignore[reportMissingImports]

    resolver = resolver_from(store, resolvers.LoRAResolver, Request)
    assert isinstance(resolver, resolvers.LoRAResolver)
    found = asyncio.run(resolver.resolve_lora(BASE, "t2l/add three"))
    assert isinstance(found, Request) and found.adapter_id == integer_id(Path(found.path).name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_vllms_own_registry_takes_and_gives_the_resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolvers = pytest.importorskip("vllm.lora.resolver", reason="vLLM is not installed", exc_type=ImportError)
    registry = resolvers.LoRAResolverRegistry
    monkeypatch.setattr(registry, "resolvers", {})
    tiny_t2l().save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setenv("T2L_CHECKPOINT", str(tmp_path / "checkpoint"))
    monkeypatch.setenv("T2L_VLLM_STORE", str(tmp_path / "store"))
    register()
    register()
    assert list(registry.get_supported_resolvers()) == [vllm_plugin.RESOLVER]
    resolver = registry.get_resolver(vllm_plugin.RESOLVER)
    found = asyncio.run(resolver.resolve_lora(BASE, "t2l/add three"))
    again = asyncio.run(resolver.resolve_lora(BASE, "t2l/add three"))
    assert found == again and found.base_model_name == BASE and Path(found.path).parent == tmp_path / "store"
    assert Adapter.load(found.path).digest == tiny_t2l().generate(["add three"])[0].digest
    assert asyncio.run(resolver.resolve_lora("org/other", "t2l/add three")) is None
    assert asyncio.run(resolver.resolve_lora(BASE, "sql-lora")) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_vllm_would_scale_it_right(store: AdapterFolder) -> None:
    peft = pytest.importorskip(
        "vllm.lora.peft_helper", reason="this part of vLLM needs more of its dependencies", exc_type=ImportError
    )
    found = ask(store, "t2l/add three")
    assert found is not None
    helper = peft.PEFTHelper.from_dict(json.loads((Path(found.lora_path) / "adapter_config.json").read_text()))
    assert helper._validate_features() == [] and helper.vllm_lora_scaling_factor == 1.0
