"""`TextToLora` and its checkpoint folder: the same adapters whatever the way, and a clear error for anything else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers import MICRO_CHECKPOINT, tiny_config
from t2l.adapter import Adapter
from t2l.encoders import MiniLmEncoder
from t2l.encoders.one_hot import OneHotEncoder
from t2l.errors import CheckpointError, DescriptionError, OutputError, T2LError
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import CONFIG_FILE, TENSOR_FILE, TextToLora, default_checkpoint, shipped_checkpoint

TASKS = ["add three", "drop the last word", "answer in capitals", "name the capital", "reverse it"]
REPOSITORY = Path(__file__).resolve().parents[1]


def tiny_spec() -> LoraSpec:
    return LoraSpec.from_base(tiny_config(), rank=3)


def tiny_t2l(variant: Any = "L", **changes: Any) -> TextToLora:
    hypernetwork = HyperNetwork(
        tiny_spec(), len(TASKS), variant, trunk_dim=8, head_dim=8, head_init="linear", seed=4, **changes
    )
    return TextToLora(OneHotEncoder(TASKS), hypernetwork, {"note": "made by a test"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_t2l().save_pretrained(tmp_path / "checkpoint")


def assert_same(found: list[Adapter], expected: list[Adapter], tolerance: float = 1e-6) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        theirs = other.state_dict()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(tensor.float(), theirs[name].float(), rtol=tolerance, atol=tolerance)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder: Path, change: Any) -> None:
    tensors = load_file(folder / TENSOR_FILE)
    change(tensors)
    save_file(tensors, folder / TENSOR_FILE)


# What it makes


@pytest.mark.parametrize("variant", ["L", "M", "S"])
def test_a_batch_gives_what_one_by_one_gives(variant: str) -> None:
    t2l = tiny_t2l(variant)
    together = t2l.generate(TASKS)
    assert_same(together, [t2l.generate([task])[0] for task in TASKS], tolerance=0)
    assert_same(together, list(t2l.stream(TASKS)), tolerance=0)
    assert_same(together, t2l.generate_from_embeddings(t2l.encoder.encode(TASKS)), tolerance=0)


def test_order_and_duplicates_are_kept_and_different_descriptions_differ() -> None:
    t2l = tiny_t2l()
    first, second, again = t2l.generate([TASKS[3], TASKS[0], TASKS[3]])
    assert_same([again], [first])
    assert_same([second], t2l.generate([TASKS[0]]))
    assert [a.provenance["description"] for a in (first, second, again)] == [TASKS[3], TASKS[0], TASKS[3]]
    assert not torch.allclose(first.weights.b["q_proj"], second.weights.b["q_proj"], atol=1e-3)
    assert t2l.generate([]) == []


def test_provenance_names_description_encoder_checkpoint_and_base(tmp_path: Path) -> None:
    t2l = tiny_t2l()
    adapter = t2l.generate([TASKS[1]])[0]
    assert adapter.provenance == {
        "description": TASKS[1],
        "encoder": t2l.encoder.identity,
        "checkpoint": t2l.digest,
        "base_model": t2l.spec.base_model,
        "seed": None,
    }
    assert Adapter.load(adapter.save(tmp_path / "adapter")).provenance["checkpoint"] == t2l.digest
    from_embedding = t2l.generate_from_embeddings(t2l.encoder.encode([TASKS[1]]))[0]
    assert "description" not in from_embedding.provenance and from_embedding.provenance["checkpoint"] == t2l.digest


def test_the_digest_tells_checkpoints_apart_and_survives_rounding() -> None:
    t2l, other = tiny_t2l(), tiny_t2l("M")
    before = t2l.digest
    assert before == tiny_t2l().digest != other.digest
    assert t2l.to(dtype=torch.bfloat16).digest == before


def test_a_kept_adapter_keeps_only_its_own_memory_and_can_be_trained() -> None:
    adapter = tiny_t2l().generate(TASKS)[2]
    for tensor in (*adapter.weights.a.values(), *adapter.weights.b.values()):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert not tensor.is_inference()
        tensor.requires_grad_().square().sum().backward()


def test_generation_is_without_dropout_and_leaves_the_global_generator_alone() -> None:
    t2l = tiny_t2l(dropout=0.5)
    state = torch.get_rng_state()
    assert_same(t2l.generate(TASKS), t2l.generate(TASKS), tolerance=0)
    assert torch.equal(state, torch.get_rng_state())


def test_bfloat16_is_near_float32(folder: Path) -> None:
    exact = TextToLora.from_pretrained(folder).generate(TASKS)
    rounded = TextToLora.from_pretrained(folder, dtype=torch.bfloat16).generate(TASKS)
    assert rounded[0].weights.a["q_proj"].dtype == torch.bfloat16
    assert_same(rounded, exact, tolerance=0.05)
    assert not torch.equal(rounded[0].weights.a["q_proj"].float(), exact[0].weights.a["q_proj"])


# The folder


@pytest.mark.parametrize("variant", ["L", "M", "S"])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, variant: str) -> None:
    t2l = tiny_t2l(variant)
    assert t2l.save_pretrained(tmp_path / "new" / "checkpoint") == tmp_path / "new" / "checkpoint"
    loaded = TextToLora.from_pretrained(tmp_path / "new" / "checkpoint")
    assert_same(loaded.generate(TASKS), t2l.generate(TASKS), tolerance=0)
    assert (loaded.digest, loaded.spec, loaded.metadata) == (t2l.digest, t2l.spec, {"note": "made by a test"})
    assert loaded.encoder.identity == t2l.encoder.identity
    assert sorted(p.name for p in (tmp_path / "new" / "checkpoint").iterdir()) == [
        "README.md",
        CONFIG_FILE,
        TENSOR_FILE,
    ]
    assert not loaded.hypernetwork.training


def test_float16_halves_the_file_and_computes_in_float32(tmp_path: Path, folder: Path) -> None:
    half = tiny_t2l().save_pretrained(tmp_path / "half", dtype=torch.float16)
    stored = load_file(half / TENSOR_FILE)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = TextToLora.from_pretrained(half)
    assert {p.dtype for p in loaded.hypernetwork.parameters()} == {torch.float32}
    for name, tensor in loaded.hypernetwork.state_dict().items():
        assert torch.equal(tensor, stored[name].float())
    assert_same(loaded.generate(TASKS), TextToLora.from_pretrained(folder).generate(TASKS), tolerance=2e-3)


def test_an_existing_folder_is_replaced_only_on_request_and_only_a_checkpoint(tmp_path: Path, folder: Path) -> None:
    before = (folder / TENSOR_FILE).read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        tiny_t2l("M").save_pretrained(folder)
    assert (folder / TENSOR_FILE).read_bytes() == before
    tiny_t2l("M").save_pretrained(folder, force=True)
    assert TextToLora.from_pretrained(folder).hypernetwork.variant == "M"
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_bytes(b"meow")
    with pytest.raises(OutputError, match="something else"):
        tiny_t2l().save_pretrained(photos, force=True)
    assert [p.name for p in photos.iterdir()] == ["cat.png"]


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    t2l = tiny_t2l()
    t2l.metadata["made"] = object()  # not JSON
    with pytest.raises(TypeError):
        t2l.save_pretrained(tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_loading_and_generating_need_no_transformers_and_no_base(folder: Path) -> None:
    program = (
        "import sys\n"
        "from t2l.model import TextToLora\n"
        f"t2l = TextToLora.from_pretrained({str(folder)!r})\n"
        f"t2l.generate({TASKS!r})\n"
        "heavy = {'transformers', 'peft', 'sentence_transformers', 'huggingface_hub', 'matplotlib'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# What is refused


@pytest.mark.parametrize("descriptions", [[""], ["   \n"], [TASKS[0], "\t"], ["x" * 9000], ["a\x00b"], ["\udcff"], [7]])
def test_a_bad_description_is_refused_before_anything_is_made(descriptions: Any) -> None:
    with pytest.raises(DescriptionError):
        tiny_t2l().generate(descriptions)


def test_one_string_is_not_a_list() -> None:
    with pytest.raises(DescriptionError, match=r"Write \['add three'\]"):
        tiny_t2l().generate("add three")


@pytest.mark.parametrize(
    "embedding",
    [torch.ones(2, 4), torch.ones(5), torch.tensor(1.0), torch.full((2, 5), torch.nan), torch.full((1, 5), torch.inf)],
)
def test_bad_embeddings_are_refused(embedding: Tensor) -> None:
    with pytest.raises(DescriptionError):
        tiny_t2l().generate_from_embeddings(embedding)


def test_an_encoder_of_another_width_is_refused() -> None:
    with pytest.raises(T2LError, match=r"width 384.*reads 5"):
        TextToLora(MiniLmEncoder(), tiny_t2l().hypernetwork)


def test_places_that_hold_no_checkpoint(tmp_path: Path, folder: Path) -> None:
    for source, message in (
        (tmp_path / "nowhere" / "at" / "all", "There is no folder"),
        ("./nowhere", "There is no folder"),
        (tmp_path, f"has no {CONFIG_FILE}"),
        (folder / TENSOR_FILE, "is a file; a checkpoint is a folder"),
    ):
        with pytest.raises(CheckpointError, match=message):
            TextToLora.from_pretrained(source)


@pytest.mark.parametrize("below", [".", "run_1", "trained/run_1"])
def test_a_checkpoint_of_the_reference_implementation_is_named(tmp_path: Path, below: str) -> None:
    inside = tmp_path / "theirs" / below
    inside.mkdir(parents=True)
    (inside / "hypermod.pt").write_bytes(b"a pickle that nobody opens")
    with pytest.raises(CheckpointError, match=r"(?s)reference implementation.*t2l import .*theirs OUT"):
        TextToLora.from_pretrained(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[1, 2]", "list, not a JSON object"),
        ('{"architectures": ["LlamaForCausalLM"], "hidden_size": 256}', "not the config of a t2l checkpoint"),
        ('{"kind": "t2l-checkpoint", "format": 99}', r"(?s)format 99.*reads 1.*Update t2l"),
        ('{"kind": "t2l-checkpoint", "format": 1}', "KeyError: 'encoder'"),
        ('{"kind": "t2l-checkpoint", "format": 1, "encoder": {"kind": "minilm"}}', "KeyError: 'hypernetwork'"),
    ],
)
def test_a_foreign_or_broken_config_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / CONFIG_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        TextToLora.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"kind": "minilmm"}}, r"minilmm"),
        ({"encoder": {"kind": "one-hot", "names": TASKS[:4]}}, r"width 4.*reads 5"),
        ({"encoder": 3}, "encoder"),
        ({"hypernetwork": {"variant": "L"}}, "structure cannot be read"),
        ({"hypernetwork": []}, "structure cannot be read"),
        ({"metadata": 3}, "metadata|TypeError"),
        ({"encoder": {"kind": "base-model", "model": "org/name", "trust_remote_code": True}}, "trust_remote_code"),
    ],
)
def test_a_config_with_a_wrong_part_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        TextToLora.from_pretrained(folder)


def _poison(value: float) -> Any:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["trunk.mixer.1.weight"][0, 0] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("trunk.mixer.1.bias"), r"missing trunk\.mixer\.1\.bias \(32,\)"),
        (lambda t: t.update(extra=torch.ones(2)), r"unexpected extra \(2,\)"),
        (lambda t: t.update({"trunk.mixer.1.bias": torch.ones(3)}), r"has shape \(3,\), expected \(32,\)"),
        (lambda t: t.update({"trunk.mixer.1.bias": torch.ones(32, dtype=torch.int64)}), "torch.int64"),
        (lambda t: t.update({"trunk.mixer.1.bias": torch.ones(32).half()}), "several dtypes"),
        (_poison(float("nan")), r"trunk\.mixer\.1\.weight holds NaN"),
        (_poison(float("inf")), r"trunk\.mixer\.1\.weight holds NaN or inf"),
        (lambda t: t.clear(), "missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, change: Any, message: str) -> None:
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message):
        TextToLora.from_pretrained(folder)


def test_a_truncated_a_missing_and_a_pickled_tensor_file(folder: Path) -> None:
    path = folder / TENSOR_FILE
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="not a whole safetensors file"):
            TextToLora.from_pretrained(folder)
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        TextToLora.from_pretrained(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        TextToLora.from_pretrained(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, item in inside for path in _places(item, (*here, key)))]


GOOD_CONFIG = json.loads(
    json.dumps(
        {
            "kind": "t2l-checkpoint",
            "format": 1,
            "encoder": OneHotEncoder(TASKS).to_config(),
            "encoder_identity": OneHotEncoder(TASKS).identity,
            "hypernetwork": tiny_t2l().hypernetwork.to_config(),
            "metadata": {},
        }
    )
)
GARBAGE = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@GARBAGE
@given(data=st.data())
def test_garbage_in_the_config_is_refused_or_harmless(folder: Path, data: st.DataObject) -> None:
    config = json.loads(json.dumps(GOOD_CONFIG))
    place = data.draw(st.sampled_from([path for path in _places(config) if path]))
    target = config
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = data.draw(JSON)
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            t2l = TextToLora.from_pretrained(folder)
        except CheckpointError as problem:
            assert problem.message
        else:  # a field that does not matter, or one that got a value it may have
            assert len(t2l.generate_from_embeddings(torch.ones(2, len(TASKS)))) == 2


@GARBAGE
@given(data=st.data())
def test_garbage_in_the_tensor_file_is_refused_or_only_another_number(folder: Path, data: st.DataObject) -> None:
    backup = folder.with_name("whole.safetensors")
    if not backup.exists():
        shutil.copy(folder / TENSOR_FILE, backup)
    whole = bytearray(backup.read_bytes())
    if data.draw(st.booleans()):
        garbage = data.draw(st.binary(max_size=200))
        whole = bytearray(garbage)
    else:
        for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
            whole[place] = data.draw(st.integers(0, 255))
    (folder / TENSOR_FILE).write_bytes(bytes(whole))
    try:
        t2l = TextToLora.from_pretrained(folder)
    except CheckpointError as problem:
        assert problem.message
    else:
        assert all(bool(torch.isfinite(p).all()) for p in t2l.hypernetwork.parameters())


# The hub


def _fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[str, dict[str, Any]]]:
    """`huggingface_hub` whose snapshot_download gives a folder or raises; returns the calls it got."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(source: str, **options: Any) -> str:
        calls.append((source, options))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    return calls


def test_a_hub_id_is_fetched_without_anything_but_two_files(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    calls = _fake_hub(monkeypatch, folder)
    t2l = TextToLora.from_pretrained("someone/some-t2l", revision="v2")
    assert_same(t2l.generate(TASKS), tiny_t2l().generate(TASKS), tolerance=0)
    assert calls == [
        (
            "someone/some-t2l",
            {"revision": "v2", "allow_patterns": [CONFIG_FILE, TENSOR_FILE, "calibration.*", "README.md", "reader/*"]},
        )
    ]


def test_a_folder_wins_over_a_hub_id(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    calls = _fake_hub(monkeypatch, RuntimeError("must not be asked"))
    folder.parent.joinpath("someone").mkdir()
    folder.rename(folder.parent / "someone" / "some-t2l")
    monkeypatch.chdir(folder.parent)
    assert len(TextToLora.from_pretrained("someone/some-t2l").generate(TASKS)) == len(TASKS)
    assert calls == []


@pytest.mark.parametrize("problem", [OSError("offline\nand a long story"), RuntimeError(""), ValueError("401")])
def test_a_hub_that_fails_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
    _fake_hub(monkeypatch, problem)
    with pytest.raises(CheckpointError, match="'someone/some-t2l' is not a folder here and cannot be read") as raised:
        TextToLora.from_pretrained("someone/some-t2l")
    assert "long story" not in str(raised.value)


def test_a_hub_repository_of_another_kind_points_to_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _fake_hub(monkeypatch, tmp_path)
    with pytest.raises(CheckpointError, match=r"(?s)no config\.json.*t2l import SakanaAI/text-to-lora OUT"):
        TextToLora.from_pretrained("SakanaAI/text-to-lora")


def test_checkpoints_that_ship_have_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert TextToLora.from_pretrained("smollm2-135m").folder == shipped_checkpoint("smollm2-135m")
    assert default_checkpoint() == str(MICRO_CHECKPOINT)  # as the tests' environment says
    assert TextToLora.from_pretrained().folder == MICRO_CHECKPOINT
    monkeypatch.setenv("T2L_CHECKPOINT", str(tmp_path))
    assert default_checkpoint() == str(tmp_path)
    with pytest.raises(CheckpointError, match="config.json"):
        TextToLora.from_pretrained()


def test_the_default_is_the_first_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("T2L_CHECKPOINT")
    monkeypatch.setattr("t2l.model._ASSETS", tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        default_checkpoint()
    (tmp_path / "smollm2-135m").mkdir()
    with pytest.raises(CheckpointError, match="lacks the checkpoint"):
        shipped_checkpoint("smollm2-135m")
    (tmp_path / "smollm2-135m" / "config.json").write_text("{}")
    assert default_checkpoint() == "smollm2-135m"
