"""What is pushed to the hub comes back from it as it was; only huggingface_hub itself is replaced."""

from __future__ import annotations

import fnmatch
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from helpers import random_weights, untrained
from t2l.adapter import Adapter
from t2l.cli import app
from t2l.errors import AdapterError, OutputError
from t2l.hub import is_hub_id
from t2l.lora import LoraSpec, ModuleGroup
from t2l.model import TextToLora

SPEC = LoraSpec(
    (ModuleGroup("q_proj", "model.layers.{layer}.self_attn.q_proj", (0, 1), 6, 4),),
    2,
    rank=2,
    base_model="someone/tiny",
)


class Hub:
    """Repositories as folders; remembers how each call was made."""

    def __init__(self, place: Path) -> None:
        self.place, self.calls, self.broken = place, [], False

    def api(self, token: Any = None) -> Any:
        return SimpleNamespace(
            create_repo=self.create_repo, create_branch=self.create_branch, upload_folder=self.upload_folder
        )

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
        if self.broken:
            raise RuntimeError("403 Forbidden: pass a token\nmuch more")
        assert exist_ok
        self.calls.append(("repo", repo_id, private))
        (self.place / repo_id).mkdir(parents=True, exist_ok=True)

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        self.calls.append(("branch", repo_id, branch))

    def upload_folder(self, *, repo_id: str, folder_path: str, allow_patterns: list[str], **how: Any) -> Any:
        self.calls.append(("upload", repo_id, how))
        for path in Path(folder_path).rglob("*"):
            name = path.relative_to(folder_path).as_posix()
            if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (self.place / repo_id / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, self.place / repo_id / name)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1", pr_url=f"https://hub/{repo_id}/pull/1")

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str], **how: Any) -> str:
        self.calls.append(("download", repo_id, {"revision": revision, **how}))
        if not (self.place / repo_id).is_dir():
            raise RuntimeError("404")
        return str(self.place / repo_id)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", found.api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    return found


def adapter(description: str = "sort the words") -> Adapter:
    return Adapter(SPEC, random_weights(SPEC), {"description": description})


def checkpoint() -> TextToLora:
    return untrained(SPEC, ["sort the words", "add three"], license="apache-2.0", steps=7)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_adapter_goes_there_and_comes_back(hub: Hub) -> None:
    made = adapter()
    done = made.push_to_hub("someone/sort", private=True, branch="v2", commit_message="First", dtype="bfloat16")
    assert done.url == "https://hub/someone/sort/commit/1"
    assert files(hub.place / "someone/sort") == sorted(done.files)
    assert sorted(done.files) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "t2l.json"]
    upload = {"revision": "v2", "create_pr": False, "commit_message": "First"}
    assert hub.calls == [
        ("repo", "someone/sort", True), ("branch", "someone/sort", "v2"), ("upload", "someone/sort", upload)
    ]  # fmt: skip
    back = Adapter.from_pretrained("someone/sort", revision="v2", token="secret")
    assert hub.calls[-1] == ("download", "someone/sort", {"revision": "v2", "token": "secret"})
    assert back.provenance["description"] == "sort the words"
    torch.testing.assert_close(
        back.delta(SPEC.module_paths()[0]), made.delta(SPEC.module_paths()[0]), atol=1e-2, rtol=0
    )
    with pytest.raises(AdapterError, match="404"):
        Adapter.from_pretrained("someone/other")


def test_a_checkpoint_goes_there_and_comes_back_with_what_lies_beside_it(hub: Hub, tmp_path: Path) -> None:
    folder = checkpoint().save_pretrained(tmp_path / "own")
    (folder / "calibration.json").write_text("{}")
    (folder / "README.md").write_text("# Written by hand\n")
    (folder / "private.txt").write_text("not for others")
    t2l = TextToLora.from_pretrained(folder)
    done = t2l.push_to_hub("someone/hypernetwork", create_pr=True)
    assert done.url.endswith("/pull/1")
    assert files(hub.place / "someone/hypernetwork") == [
        "README.md", "calibration.json", "config.json", "model.safetensors"
    ]  # fmt: skip
    assert (hub.place / "someone/hypernetwork/README.md").read_text() == "# Written by hand\n"
    back = TextToLora.from_pretrained("someone/hypernetwork", local_files_only=True)
    assert hub.calls[-1] == ("download", "someone/hypernetwork", {"revision": None, "local_files_only": True})
    assert back.digest == t2l.digest
    assert back.generate(["add three"])[0].digest == t2l.generate(["add three"])[0].digest


def test_the_card_of_a_checkpoint_is_valid_for_the_hub(tmp_path: Path) -> None:
    card = ModelCard.load(checkpoint().save_pretrained(tmp_path / "own") / "README.md")
    assert card.data.to_dict() == {
        "base_model": "someone/tiny",
        "license": "apache-2.0",
        "library_name": "t2l",
        "tags": ["t2l", "text-to-lora", "lora", "hypernetwork"],
    }
    assert "rank 2 on q_proj" in card.text and '"steps": 7' in card.text


def test_a_base_that_is_no_hub_id_is_not_named_to_the_hub(tmp_path: Path) -> None:
    for base in ("/models/own", "../own", "own.gguf"):
        spec = LoraSpec(SPEC.groups, 2, rank=2, base_model=base)
        folder = Adapter(spec, random_weights(spec)).save(tmp_path / base.strip("./").replace("/", "-"))
        assert "base_model" not in ModelCard.load(folder / "README.md").data.to_dict()


@pytest.mark.parametrize("what", ["adapter", "checkpoint"])
def test_the_verb_uploads_a_folder_as_it_is(what: str, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    adapter().save(folder) if what == "adapter" else checkpoint().save_pretrained(folder)
    (folder / "README.md").write_text("# Mine\n")
    done = CliRunner().invoke(app, ["push", str(folder), "someone/own", "--private", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["url"] == "https://hub/someone/own/commit/1" and report["files"] == files(hub.place / "someone/own")
    assert (hub.place / "someone/own/README.md").read_text() == "# Mine\n"
    assert hub.calls[0] == ("repo", "someone/own", True)


def test_what_cannot_be_pushed(hub: Hub, tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        done = CliRunner().invoke(app, ["push", *words])
        assert done.exit_code == 2 and not hub.calls, done.output
        return " ".join(done.output.split())

    folder = adapter().save(tmp_path / "own")
    assert "neither a checkpoint" in refused(str(tmp_path), "someone/own")
    assert "neither a checkpoint" in refused(str(tmp_path / "nothing"), "someone/own")
    assert "ORGANISATION/NAME" in refused(str(folder), "own")
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    assert "not a whole safetensors file" in refused(str(folder), "someone/own")
    hub.broken = True
    with pytest.raises(OutputError, match=r"(?s)403 Forbidden: pass a token\..*hf auth login") as caught:
        adapter().push_to_hub("someone/own")
    assert "much more" not in str(caught.value)


def test_hub_ids() -> None:
    assert is_hub_id("a/b") and not any(map(is_hub_id, ["a", "/a/b", "a/b/c", "./a", "~/a", "a/", "/a", ""]))
