"""The store and the sampler: what was written is read, a killed run goes on, and the order is fair and fixed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t2l.data.prompts import SampleRows
from t2l.data.sampler import TaskSampler, permutation
from t2l.data.store import SAMPLES_FILE, DataStore, TaskEntry
from t2l.data.writer import JOURNAL_FILE, forget_from, open_writer
from t2l.errors import DataError, OutputError, T2LError

HEADER = {"tokenizer": "x", "seed": 0}


def rows(samples: list[tuple[list[int], list[int]]]) -> SampleRows:
    whole = [prompt + response for prompt, response in samples]
    offsets = np.cumsum([0, *map(len, whole)], dtype=np.int32)
    return SampleRows(
        offsets,
        np.concatenate([np.array(ids, dtype=np.int32) for ids in whole]),
        np.array([len(p) for p, _ in samples], dtype=np.int32),
    )


def write(target: Path, tasks: dict[str, SampleRows], *, force: bool = False) -> DataStore:
    with open_writer(target, HEADER, force=force, restart=False) as writer:
        for name, given in tasks.items():
            if name not in writer.done:
                writer.append(name, given, {})
        records = [{**writer.done[name], "split": "train"} for name in sorted(tasks)]
        lines = [{"name": name, "descriptions": [f"Do {name}."]} for name in sorted(tasks)]
        writer.finish(target, {"tasks": records}, lines)
    return DataStore.open(target)


TASKS = {"b": rows([([1, 2], [3]), ([4], [5, 6, 7])]), "a": rows([([9], [8])])}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    store = write(tmp_path / "store", TASKS)
    assert [task.name for task in store.tasks] == ["a", "b"]
    assert store.tasks[1] == TaskEntry("b", "train", 2, ("Do b.",))
    sample = store.sample(store.task_index("b"), 1)
    assert sample.input_ids.tolist() == [4, 5, 6, 7] and sample.prompt_length == 1
    assert sample.input_ids.dtype == np.int32 and not sample.input_ids.flags.owndata
    assert store.lengths(1).tolist() == [3, 4]
    store.verify()
    with pytest.raises(IndexError):
        store.sample(0, 1)
    with pytest.raises(DataError, match="no task 'bb'"):
        store.task_index("bb")


def test_the_file_is_arrow_that_datasets_opens(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "store", TASKS)
    opened = datasets.Dataset.from_file(str(tmp_path / "store" / SAMPLES_FILE))
    assert opened["input_ids"][:] == [[1, 2, 3], [4, 5, 6, 7], [9, 8]]


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    store = write(tmp_path / "store", TASKS)
    path = store.folder / SAMPLES_FILE
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    with pytest.raises(DataError, match=r"has [\d,]+ bytes; its manifest says"):
        DataStore.open(store.folder)
    broken = bytearray(data)
    place = data.index(np.array([4, 5, 6, 7], dtype=np.int32).tobytes())
    broken[place] = 99
    path.write_bytes(bytes(broken))
    with pytest.raises(DataError, match="'b' .* not those that were written"):
        DataStore.open(store.folder).verify()


def test_places_that_are_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no data store"):
        DataStore.open(tmp_path / "nothing")
    (tmp_path / "half.partial").mkdir()
    with pytest.raises(DataError, match="half.partial' is an unfinished one"):
        DataStore.open(tmp_path / "half")
    with pytest.raises(DataError, match=r"no manifest\.json"):
        DataStore.open(tmp_path)
    store = write(tmp_path / "store", TASKS)
    manifest = store.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        DataStore.open(store.folder)


@pytest.mark.parametrize("lost", [1, 30, 10_000])
def test_a_run_cut_off_goes_on_behind_the_last_whole_task(tmp_path: Path, lost: int) -> None:
    target = tmp_path / "store"
    with open_writer(target, HEADER, force=False, restart=False) as writer:
        writer.append("b", TASKS["b"], {})
    partial = tmp_path / "store.partial"
    whole = (partial / SAMPLES_FILE).read_bytes()
    # as a kill in the middle of the next task leaves it: bytes without a line, a line without an end
    (partial / SAMPLES_FILE).write_bytes(whole + b"\xff" * lost)
    with (partial / JOURNAL_FILE).open("ab") as journal:
        journal.write(b'{"name": "a", "ba')
    with open_writer(target, HEADER, force=False, restart=False) as writer:
        assert set(writer.done) == {"b"}
        assert (partial / SAMPLES_FILE).read_bytes() == whole
    resumed = write(target, TASKS)
    never_killed = write(tmp_path / "other", TASKS)
    assert resumed.manifest["digest"] == never_killed.manifest["digest"]
    resumed.verify()
    assert not partial.exists()


def test_samples_that_the_disk_lost_are_written_again(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with open_writer(target, HEADER, force=False, restart=False) as writer:
        writer.append("b", TASKS["b"], {})
        writer.append("a", TASKS["a"], {})
    samples = tmp_path / "store.partial" / SAMPLES_FILE
    samples.write_bytes(samples.read_bytes()[:-8])
    with open_writer(target, HEADER, force=False, restart=False) as writer:
        assert set(writer.done) == {"b"}


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store", HEADER, force=False, restart=False) as writer:
        writer.append("b", TASKS["b"], {})
    with (
        pytest.raises(DataError, match="seed: 0, now 1"),
        open_writer(tmp_path / "store", {**HEADER, "seed": 1}, force=False, restart=False),
    ):
        pass
    with open_writer(tmp_path / "store", {**HEADER, "seed": 1}, force=False, restart=True) as writer:
        assert not writer.done


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with (
        open_writer(tmp_path / "store", HEADER, force=False, restart=False),
        pytest.raises(OutputError, match="Another process"),
        open_writer(tmp_path / "store", HEADER, force=False, restart=False),
    ):
        pass


def test_a_changed_source_takes_back_what_follows(tmp_path: Path) -> None:
    with open_writer(tmp_path / "store", HEADER, force=False, restart=False) as writer:
        writer.append("c", TASKS["b"], {})
        writer.append("b", TASKS["b"], {})
        writer.append("a", TASKS["a"], {})
        forget_from(writer, "b")
        assert set(writer.done) == {"c"}
    store = write(tmp_path / "store", {"c": TASKS["b"], **TASKS})
    assert [task.name for task in store.tasks] == ["a", "b", "c"]
    store.verify()


def test_a_finished_store_is_replaced_only_when_told(tmp_path: Path) -> None:
    write(tmp_path / "store", TASKS)
    with pytest.raises(OutputError, match="already exists"):
        write(tmp_path / "store", TASKS)
    assert len(write(tmp_path / "store", {"a": TASKS["a"]}, force=True).tasks) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds something else"):
        write(tmp_path / "mine", TASKS, force=True)


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import t2l.data.writer as module

    target = tmp_path / "store"
    with open_writer(target, HEADER, force=False, restart=False) as writer:
        writer.append("b", TASKS["b"], {})

        def full(stream: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(module, "_sync", full)
            with pytest.raises(OutputError, match=r"No space left(.|\n)*resumes where it stopped"):
                writer.append("a", TASKS["a"], {})
    assert write(target, TASKS).manifest["digest"] == write(tmp_path / "other", TASKS).manifest["digest"]


# --- the sampler ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """A store of names and sizes alone."""

    tasks: tuple[TaskEntry, ...]


def sized(sizes: list[int], descriptions: int = 3) -> Named:
    texts = tuple(f"d{n}" for n in range(descriptions))
    return Named(tuple(TaskEntry(f"task{i}", "train", size, texts) for i, size in enumerate(sizes)))


SIZES = [5, 17, 64, 1, 33, 100, 8]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100, 1000])
def test_a_permutation_is_one(size: int) -> None:
    for key in range(5):
        assert sorted(permutation(size, key).tolist()) == list(range(size))


def blake(key: int) -> int:
    return int.from_bytes(blake2b(str(key).encode(), digest_size=8).digest(), "little")


def test_permutations_favour_no_place() -> None:
    size, keys = 6, 6000
    counts = np.zeros((size, size))
    for key in range(keys):
        counts[np.arange(size), permutation(size, blake(key))] += 1
    chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum()
    assert chi_square < 60  # 25 degrees of freedom: 52.6 is the 99.9th percentile


def sampled(store: Named, tasks_a_step: int, samples: int = 1, seed: int = 0, **how: Any) -> TaskSampler:
    return TaskSampler(store, range(len(store.tasks)), tasks_a_step, samples, seed, **how)


def test_every_task_is_as_frequent_and_every_sample_comes_once_a_turn() -> None:
    sampler = sampled(sized(SIZES), 4, seed=1)
    picks = [pick for step in range(7 * 25) for (pick,) in sampler.groups(step)]  # 700 positions: 100 visits a task
    assert Counter(task for task, _, _ in picks) == dict.fromkeys(range(len(SIZES)), 100)
    for task, size in enumerate(SIZES):
        counts = Counter(sample for index, sample, _ in picks if index == task)
        assert set(counts) == set(range(size)) or size > 100
        assert max(counts.values()) - min(counts.values()) <= (0 if 100 % size == 0 else 1)
    described = Counter((task, description) for task, _, description in picks)
    assert set(described.values()) == {33, 34}


def test_any_step_can_be_entered() -> None:
    whole = sampled(sized(SIZES), 6, seed=3)
    steps = [whole.groups(step) for step in range(40)]
    fresh = sampled(sized(SIZES), 6, seed=3)
    assert [fresh.groups(step) for step in (37, 2, 19)] == [steps[37], steps[2], steps[19]]
    assert steps[0] != sampled(sized(SIZES), 6, seed=4).groups(0)
    assert len(fresh.groups(10**12)) == 6


def test_groups_share_a_description() -> None:
    sampler = sampled(sized(SIZES), 2, 3, descriptions=2)
    for step in range(30):
        for group in sampler.groups(step):
            assert len(group) == 3
            assert len({task for task, _, _ in group}) == 1 and len({description for _, _, description in group}) == 1
            assert group[0][2] in (0, 1)


def test_what_cannot_be_sampled_is_said() -> None:
    store = sized(SIZES)
    bare = Named((TaskEntry("bare", "train", 1, ()),))
    empty = Named((TaskEntry("empty", "train", 0, ("d",)),))
    cases: list[tuple[Named, dict[str, Any], str]] = [
        (bare, {"tasks_a_step": 1}, "'bare' among them"),
        (empty, {"tasks_a_step": 1}, "no task with samples"),
        (store, {"tasks_a_step": 0}, "at least 1"),
        (store, {"tasks_a_step": 1, "samples": 0}, "at least 1"),
        (store, {"tasks_a_step": 1, "descriptions": -1}, "at least 1"),
    ]
    for given, words, message in cases:
        with pytest.raises(T2LError, match=message):
            sampled(given, **words)
    assert sampled(bare, 1, with_descriptions=False).groups(9) == [[(0, 0, -1)]]
