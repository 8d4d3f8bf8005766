"""The suite sni: scores against values worked out by hand, siblings among tasks, batches, and runs by the command."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from html import escape
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from command import document, done, refused
from helpers import fill, random_weights, save_tiny_llama, tiny_pair
from t2l.adapter import Adapter
from t2l.batched import apply_batched
from t2l.data.descriptions import DescriptionFile, DescriptionSet
from t2l.data.sources import Instance, Task
from t2l.encoders import DescriptionEncoder, OneHotEncoder
from t2l.errors import DataError, DescriptionError, OutputError, T2LError
from t2l.evaluation.adapters import Shelf
from t2l.evaluation.decoding import Decoder, Prompted
from t2l.evaluation.rows import GATE, ROWS, Bench, chosen_rows
from t2l.evaluation.runs import Answers, open_run
from t2l.evaluation.scores import RougeL, exact_match, normalised
from t2l.evaluation.statistics import over_tasks
from t2l.evaluation.suite import SuiteTask, load_suite, scored
from t2l.evaluation.wording import texts_for
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model import TextToLora

pytest.importorskip("rouge_score")

WORDS = ("oslo", "rome", "paris", "cairo", "lima", "quito", "delhi", "seoul", "tunis", "accra")


# --- scores -------------------------------------------------------------------------------------------------------


def test_exact_match_lowers_drops_punctuation_and_keeps_articles() -> None:
    assert normalised("  The  cat's, hat! ") == "the cats hat"
    assert exact_match("Yes.", ["no", "yes"])
    assert not exact_match("the cat", ["cat"])  # the official evaluation does not remove articles
    assert exact_match("", ["..."])


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("the cat sat", ["the cat sat"], 1.0),
        # longest common subsequence "cat the mat" of 4 and 5 words: 2 * (3/4 * 3/5) / (3/4 + 3/5)
        ("a cat the mat", ["cat sat on the mat"], 2 * (3 / 4 * 3 / 5) / (3 / 4 + 3 / 5)),
        ("running quickly", ["run quickly"], 1.0),  # stems
        ("dog", ["cat", "A DOG!"], 2 * (1 * 1 / 2) / (1 + 1 / 2)),  # the best reference, in lower case
        ("", ["cat"], 0.0),
        ("猫", ["猫"], 0.0),  # its tokens are ASCII letters and digits, as in the official evaluation of English tasks
    ],
)
def test_rouge_l(answer: str, references: list[str], expected: float) -> None:
    assert RougeL()(answer, references) == pytest.approx(expected)


def test_rouge_l_is_that_of_the_package_with_stemming() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    draw, ours, theirs = Random(0), RougeL(), RougeScorer(["rougeL"], use_stemmer=True)
    words = ["running", "cities", "The", "a", "it's", "well-known", "10", "ponies", ","]
    for _ in range(50):
        one, other = (" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(2))
        assert ours(one, [other]) == theirs.score(target=other, prediction=one)["rougeL"].fmeasure


def test_intervals_resample_tasks_and_weigh_instances() -> None:
    same = over_tasks([(5.0, 10), (10.0, 20)])
    assert (same.mean, same.low, same.high) == pytest.approx((50, 50, 50))  # tasks that agree leave no doubt
    spread = over_tasks([(10.0, 10), (0.0, 30)])
    assert spread.mean == pytest.approx(25)
    assert (spread.low, spread.high) == pytest.approx((0, 100))


# --- tasks --------------------------------------------------------------------------------------------------------


def suite_task(
    name: str, definition: str, datasets: tuple[str, ...] = (), outputs: tuple[str, ...] = ("x",)
) -> SuiteTask:
    instances = tuple(Instance(f"input {number}", (output,)) for number, output in enumerate(outputs))
    return SuiteTask.of(Task(name, definition, instances, datasets=datasets))


def test_another_task_is_never_the_task_or_its_sibling() -> None:
    tasks = [
        suite_task("task001_alpha_one", "Say one.", ("alpha",)),
        suite_task("task002_alpha_two", "Say two.", ("alpha_2",)),  # the same stem
        suite_task("task003_beta_one", "Say one!", ("beta",)),  # the same text
        suite_task("task004_gamma_one", "Say four.", ("x", "Alpha")),  # the same data set
        suite_task("task005_delta_one", "Say five.", ("delta",)),
    ]
    known = [task.wording() for task in tasks]
    assert [known[0].is_kin(other) for other in known] == [True, True, True, True, False]
    for seed in range(20):
        assert texts_for("other-task", known[0], known, 1, seed) == ["Say five."]
    with pytest.raises(DescriptionError, match="No task of the run is another one"):
        texts_for("other-task", known[0], known[:4], 1)
    drawn = {texts_for("other-task", known[4], known, 1, seed)[0] for seed in range(20)}
    assert drawn == {task.definition for task in tasks[:4]}, "a draw, not always one"
    # as it has always been drawn, so that runs of earlier versions go on
    others = [task.definition for task in tasks[:4]]
    assert texts_for("other-task", known[4], known, 1, 3) == [Random("task005_delta_one/other-task/3").choice(others)]


def test_label_sets_come_from_at_most_eight_different_answers() -> None:
    assert suite_task("task1_a", "d", outputs=("Yes", "no", "yes.")).labels == {"yes", "no"}
    assert not suite_task("task1_a", "d", outputs=tuple(map(str, range(9)))).labels
    assert not suite_task("task1_a", "d", outputs=("a",) * 5).labels  # one answer is no choice
    many = Task("task1_a", "d", tuple(Instance(str(number), ("ab"[number % 2],)) for number in range(150)))
    assert len(SuiteTask.of(many).instances) == 100
    few = SuiteTask.of(many, limit=1)
    assert len(few.instances) == 1 and few.labels == {
        "a",
        "b",
    }  # known from the official instances, however few are asked


def test_rows_differ_in_adapter_and_prompt_alone() -> None:
    tasks = [suite_task("task1_alpha", "Say A.", ("a",)), suite_task("task2_beta", "Say B.", ("b",))]
    known = DescriptionFile([DescriptionSet("task1_alpha", ("Say A.", "Utter A."))])
    base, t2l = tiny_pair(["Say A.", "Say B.", "Do the task.", "Utter A."])
    bench = Bench([task.wording(known) for task in tasks], base, t2l)
    names = ("base", "description-in-prompt", "t2l", "t2l-in-prompt", "other-task", "vague", "static", "paraphrase")
    rows = {row: bench.variants(row) for row in names}
    first = {row: some[0] for row, some in rows.items()}
    assert first["t2l"].adapter == ("text", "Say A.") and first["base"].adapter is None
    assert first["other-task"].adapter == ("text", "Say B.") and not first["other-task"].told
    assert first["vague"].adapter == ("text", "Do the task.") and first["static"].adapter == ("static", "")
    assert first["description-in-prompt"].told == "Say A." and first["description-in-prompt"].adapter is None
    assert first["t2l-in-prompt"].told == "Say A." and first["t2l-in-prompt"].adapter == first["t2l"].adapter
    assert [(one.task, one.text) for one in rows["paraphrase"]] == [("task1_alpha", "Utter A.")]  # not the definition


def test_rows_need_what_they_need() -> None:
    assert chosen_rows(None, "suite", ()) == ["base", "description-in-prompt", "copy-input"]
    assert "t2l" in chosen_rows(None, "suite", ["--checkpoint"])
    assert "multi-task" in chosen_rows(None, "suite", ["--multi-task"])
    assert "nearest" in chosen_rows(None, "suite", ["--library"], gate=True)
    assert chosen_rows(None, "suite", ["--checkpoint"], gate=True) == sorted(GATE, key=list(ROWS).index)
    assert set(chosen_rows("copy-input", "suite", ["--checkpoint"], gate=True)) == {*GATE, "copy-input"}
    assert chosen_rows("t2l, base", "suite", ()) == ["base", "t2l"]
    for asked, words in (("bse", "'base'"), ("multi-task", "--multi-task"), ("shots", "only on"), (",", "No")):
        with pytest.raises(T2LError, match=words):
            chosen_rows(asked, "suite", ())


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 250, 5000])
def test_answers_are_those_of_each_prompt_alone(batch_tokens: int) -> None:
    names = [f"Do {number}." for number in range(4)]
    base, t2l = tiny_pair(names)
    shelf, draw = Shelf(t2l, names), Random(1)
    other = Adapter(
        LoraSpec.from_base(base.model.config, rank=3), random_weights(LoraSpec.from_base(base.model.config, rank=3))
    )
    shelf.add(("multi-task", ""), other)
    adapters = [None, ("multi-task", ""), *(("text", name) for name in names)]
    questions = []
    for _ in range(24):
        text = "".join(draw.choices("abcdefg ", k=draw.randint(2, 20))) + "x"
        ids = base.tokenizer(base.prompt(text), add_special_tokens=False)["input_ids"]
        questions.append(Prompted(tuple(ids), (), 6, draw.choice(adapters)))
    kept: dict[int, Any] = {}
    decoder = Decoder(base, shelf, batch_tokens=batch_tokens)
    found = decoder.answers(questions, kept.update)
    assert [kept[number] for number in range(len(questions))] == found
    lengths = set()
    for question, answer in zip(questions, found, strict=True):
        name = question.adapter
        under: Any = (
            nullcontext() if name is None else apply_batched(base.model, shelf.spec(name), shelf.weights([name]), [0])
        )
        ids_ST, mask_ST = base.padded([list(question.prompt)])
        with under:
            alone = base.greedy(ids_ST, mask_ST, 6)[0, ids_ST.shape[1] :].tolist()
        end = next((place for place, token in enumerate(alone, 1) if token in base.ends()), None)
        assert answer.text == base.tokenizer.decode(alone[:end], skip_special_tokens=True)
        assert (answer.tokens, answer.ended) == (end or 6, end is not None)
        lengths.add(answer.tokens)
    assert len(lengths) > 1  # some ended before others, so rows have left
    prompts, names = [one.prompt for one in questions], [one.adapter for one in questions]
    batches = list(decoder.batches(prompts, names, range(len(questions)), 6))
    numbers = sorted(number for batch in batches for run in batch for number in run.numbers)
    assert numbers == list(range(len(questions)))


def test_a_batch_too_large_for_the_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = tiny_pair(["x"])
    ids = tuple(base.tokenizer("abc", add_special_tokens=False)["input_ids"])
    questions = [Prompted((*ids[:-1], ids[-1] + number), (), 3) for number in range(9)]
    decoder = Decoder(base, batch_tokens=1000)
    expected, own = decoder.answers(questions), decoder._batch
    sizes: list[int] = []

    def small(runs: Any, *given: Any) -> Any:
        sizes.append(sum(len(run.numbers) for run in runs))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("full")
        return own(runs, *given)

    monkeypatch.setattr(decoder, "_batch", small)
    assert decoder.answers(questions) == expected
    assert sizes[0] == 9 and sizes[-1] <= 4 and decoder.batch_tokens < 1000
    monkeypatch.setattr(decoder, "_batch", lambda runs, *given: small([*runs] * 9, *given))
    with pytest.raises(torch.OutOfMemoryError):  # nothing is small enough: said, not tried for ever
        decoder.answers(questions)


def test_conditions_are_encoded_once_and_adapters_are_those_of_generate() -> None:
    names = [f"Do {number}." for number in range(3)]
    _, t2l = tiny_pair(names)
    shelf = Shelf(t2l, names)
    weights = shelf.weights([("text", names[2]), ("text", names[0]), ("text", names[2])])
    made = t2l.generate([names[2], names[0]])
    for key, a_NLRI in weights.a.items():
        for row, adapter in enumerate((made[0], made[1], made[0])):
            assert (a_NLRI[row] - adapter.weights.a[key][0]).abs().max() < 1e-4


class Letters(DescriptionEncoder):
    """Token states that are letters: rows as wide as the longest text of a call, zero after a text's end."""

    ragged = True
    token_dim, identity, dim = 4, "letters", 4 * 30

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        states = [torch.eye(128)[[ord(letter) for letter in text]][:, 97:123] @ LETTERS for text in texts]
        return torch.nn.utils.rnn.pad_sequence(states, batch_first=True).flatten(1)

    def to_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: Any, *, device: str, trust_remote_code: bool) -> Letters:
        return cls()


LETTERS = torch.randn(26, 4, generator=torch.Generator().manual_seed(0))


def test_texts_of_any_length_share_a_batch_and_have_a_mean() -> None:
    base, _ = tiny_pair(["x"])
    spec = LoraSpec.from_base(base.model.config, rank=2)
    settings: Any = {"task_encoder": "tokens", "token_dim": 4, "trunk_dim": 64, "head_dim": 5}
    t2l = TextToLora(Letters(), fill(HyperNetwork(spec, Letters.dim, "T", **settings), std=0.4))  # type: ignore[arg-type]
    texts = [*("abc" * (1 + number % 9) for number in range(40)), "z"]
    shelf = Shelf(t2l, texts)
    shelf.add_mean(("static", ""), ["z", "abcabc"])
    weights = shelf.weights([("text", "z"), ("static", ""), ("text", "abc" * 9)])
    expected = [t2l.generate(["z"])[0], t2l.blend(["z", "abcabc"]), t2l.generate(["abc" * 9])[0]]
    for key, b_NLOR in weights.b.items():
        for row, adapter in enumerate(expected):
            assert (b_NLOR[row] - adapter.weights.b[key][0]).abs().max() < 1e-5
    assert (weights.b["q_proj"][0] - weights.b["q_proj"][2]).abs().max() > 1e-3


def test_scores_need_every_answer_of_a_row_that_was_begun() -> None:
    task = suite_task("task1_alpha", "Say A.", outputs=("a", "b", "a"))
    answers = Answers()
    answers.put({"base/task1_alpha/0": {"answer": "a", "ended": True, "prompt_tokens": 4}})
    with pytest.raises(T2LError, match=r"lacks 2 answers of the task 'task1_alpha'"):
        scored(["base"], [task], answers)
    answers.put({f"base/task1_alpha/{place}": {"answer": "A!", "ended": False, "prompt_tokens": 6} for place in (1, 2)})
    answers.put({f"t2l/task1_alpha/{place}": {"answer": word} for place, word in enumerate("abz")})
    found = scored(["base", "t2l", "vague"], [task], answers)
    assert set(found["scores"]) == {"base", "t2l"}  # nothing of "vague" is there
    base = found["summary"]["base"]
    assert base["exact_match"]["mean"] == pytest.approx(200 / 3)
    assert base["in_labels"]["mean"] == 100 and found["summary"]["t2l"]["in_labels"]["mean"] == pytest.approx(200 / 3)
    assert (base["prompt_tokens"], base["not_ended"]) == (pytest.approx(16 / 3), 2)
    assert found["differences"]["base"]["exact_match"]["mean"] == pytest.approx(0)


# --- runs by the command ------------------------------------------------------------------------------------------


def write_tasks(folder: Path) -> list[str]:
    """Three tasks of three data sets; their definitions."""
    folder.mkdir()
    definitions = []
    for number, (stem, count) in enumerate((("alpha", 6), ("beta", 6), ("gamma", 3)), start=1):
        definition = f"Give letter {stem}."
        outputs = (["yes"], ["no"]) if stem == "alpha" else ([[word] for word in WORDS])
        instances = [
            {"id": str(place), "input": f"{WORDS[place]}, {stem}", "output": outputs[place % len(outputs)]}
            for place in range(count)
        ]
        value = {"Definition": [definition], "Source": [stem], "Categories": [f"Kind {stem}"], "Instances": instances}
        (folder / f"task00{number}_{stem}_answer.json").write_text(json.dumps(value))
        definitions.append(definition)
    return definitions


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("sni")
    definitions = write_tasks(folder / "tasks")
    base = save_tiny_llama(folder / "base")
    wordings = [{"name": f"task00{number}", "descriptions": [f"Other words {number}."]} for number in (1, 2)]
    (folder / "descriptions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in wordings))
    encoder = OneHotEncoder([*definitions, "Do the task.", "Other words 1.", "Other words 2."])
    spec = LoraSpec.from_base(base, rank=2)
    network: Any = fill(HyperNetwork(spec, encoder.dim, trunk_dim=8, head_dim=8, head_init="linear"), std=0.6)
    TextToLora(encoder, network).save_pretrained(folder / "checkpoint")
    Adapter(spec, random_weights(spec)).save(folder / "run" / "adapter")
    Adapter(spec, random_weights(spec, seed=1)).save(folder / "lora")
    return SimpleNamespace(folder=folder, tasks=folder / "tasks", base=base, checkpoint=folder / "checkpoint")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2L_CACHE", str(tmp_path / "cache"))


FEW = ("--max-new-tokens", "5", "--dtype", "float32")


def test_half_precision_by_default_is_that_of_loading_in_it(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t2l.bases import load_base
    from t2l.commands import evaluate as command

    rounded, loaded = load_base(str(place.base)).model, load_base(str(place.base), dtype="bfloat16").model
    command._round_to_bfloat16(rounded)
    for one, other in (
        (rounded.named_parameters(), loaded.named_parameters()),
        (rounded.named_buffers(), loaded.named_buffers()),
    ):
        for (name, tensor), (_, wanted) in zip(one, other, strict=True):
            assert tensor.dtype == wanted.dtype and torch.equal(tensor, wanted), name
    words = ["evaluate", "--suite", "sni", place.tasks, "-c", place.checkpoint, "--rows", "base,t2l", *FEW[:2], "-o"]
    document(*words, "small")
    monkeypatch.setattr(command, "_SMALL", 0)
    monkeypatch.setattr(command, "_has_bfloat16", lambda device: True)
    document(*words, "usual")
    document(*words, "asked", "--dtype", "bfloat16")
    kinds = [json.loads(Path(run, "settings.json").read_text())["dtype"] for run in ("small", "usual", "asked")]
    assert kinds == ["float32", "bfloat16", "bfloat16"]
    assert read_answers("usual") == read_answers("asked")


def test_every_row_of_one_run(place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["evaluate", "--suite", "sni", place.tasks, "-c", place.checkpoint, *FEW, "-o", "run"]
    words += ["--multi-task", place.folder / "run", "--multi-task-prompt", place.folder / "lora"]
    words += ["--descriptions", place.folder / "descriptions.jsonl"]
    run = document(*words)
    assert run["kind"] == "t2l-suite" and json.loads(Path("run/run.json").read_text())["scores"] == run["scores"]
    assert set(run["rows"]) == {
        "base", "description-in-prompt", "t2l", "paraphrase", "other-task", "vague", "static", "t2l-in-prompt",
        "copy-input", "multi-task", "multi-task-prompt",
    }  # fmt: skip
    assert run["summary"]["base"]["answers"] == 15 and run["summary"]["paraphrase"]["tasks"] == 2
    assert run["summary"]["description-in-prompt"]["prompt_tokens"] > run["summary"]["t2l"]["prompt_tokens"]
    assert run["summary"]["base"]["prompt_tokens"] == run["summary"]["t2l"]["prompt_tokens"]
    assert set(run["differences"]) == set(run["rows"]) - {"t2l"} and set(run["categories"]) == {
        "Kind alpha", "Kind beta", "Kind gamma",
    }  # fmt: skip
    assert any("'paraphrase' has no description for 1 of 3 tasks" in note for note in run["notes"])
    copied = [value for key, value in read_answers("run") if key == "copy-input/task002_beta_answer/1"]
    assert copied == [{"answer": "rome, beta"}]
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "tools"))
    tool: Any = importlib.import_module("results")
    kept = tool.SMALLER["sni"](run)
    page = tool.SECTIONS["sni"](kept)
    assert "scores" not in kept and page.startswith("## Unseen tasks, from the description alone")
    assert str(place.folder) not in page and run["checkpoint"][:12] in page and "**paraphrase**" in page
    tables = [line.count("|") for line in page.splitlines() if line.startswith("|")]
    assert len(tables) == 2 + 11 + 2 + 3 and len(set(tables[:13])) == 1 and "(2 tasks)" in page
    done("report", "run", "--out", "page.html")
    page, tables = Path("page.html").read_text(), Path("page.md").read_text()
    for row, title in run["rows"].items():
        gap = run["differences"].get(row)
        assert escape(title) in page and title in tables
        assert gap is None or f"{gap['rouge_l']['mean']:+.1f} ({gap['rouge_l']['low']:+.1f} to" in tables
    assert "task003_gamma_answer" in page and "Kind gamma" in tables
    shown = done(*words).stdout
    assert "t2l minus it" in shown and "Kind beta" in shown


def read_answers(folder: str) -> list[Any]:
    return [json.loads(line) for line in (Path(folder) / "answers.jsonl").read_text().splitlines()]


def test_the_gate_of_a_suite_judges_by_rouge_l(place: SimpleNamespace) -> None:
    words = ["evaluate", "--suite", "sni", place.tasks, "-c", place.checkpoint, *FEW, "--gate", "-o", "run"]
    told = done(*words, "--multi-task", place.folder / "run")
    assert "Not measured: junk" in told.stderr, "this encoder knows certain texts alone"
    run = json.loads(Path("run/run.json").read_text())
    assert set(run["rows"]) == {"base", "t2l", "vague", "other-task", "static", "multi-task"}
    assert run["gate"]["verdict"][-1] in told.stdout and "15 items are too few" in run["gate"]["verdict"][-1]
    gaps = [
        one["difference"]["mean"]
        for one in run["gate"]["comparisons"]
        if one == {**one, "task": None, "against": "base"}
    ]
    means = [[run["scores"][row][task]["rouge_l"] for task in run["tasks"]] for row in ("t2l", "base")]
    assert gaps == [pytest.approx(100 * sum(a - b for a, b in zip(*means, strict=True)) / 3)], (
        "each task weighs the same"
    )
    done("report", "run", "--out", "page.html")
    assert escape(run["gate"]["verdict"][-1]) in Path("page.html").read_text()
    assert run["gate"]["verdict"][-1] in Path("page.md").read_text()


def test_rows_without_a_checkpoint_and_a_limit(place: SimpleNamespace) -> None:
    run = document("evaluate", "--suite", "sni", place.tasks, "--base", place.base, "--limit", "2", *FEW)
    assert set(run["rows"]) == {"base", "description-in-prompt", "copy-input"} and not run["differences"]
    assert run["checkpoint"] is None
    assert all(task["items"] == 2 for task in run["tasks"].values())


def test_long_inputs_lose_their_end_in_every_row(place: SimpleNamespace) -> None:
    words = ["--rows", "base,copy-input", "--input-tokens", "3", *FEW, "-o", "run"]
    run = document("evaluate", "--suite", "sni", place.tasks, "--base", place.base, *words)
    assert run["inputs_cut"] == 15 and "lost their end" in run["notes"][0]
    again = document("evaluate", "--suite", "sni", place.tasks, "-o", "run", "--score-only")
    assert again["notes"] == run["notes"] and again["scores"] == run["scores"]
    assert dict(read_answers("run"))["copy-input/task001_alpha_answer/0"] == {"answer": "osl"}


def test_a_killed_run_goes_on_and_rows_can_be_added(place: SimpleNamespace) -> None:
    words = ["evaluate", "--suite", "sni", place.tasks, "-c", place.checkpoint, *FEW, "-o"]
    whole = document(*words, "whole", "--rows", "base,t2l")
    document(*words, "killed", "--rows", "base,t2l")
    kept = Path("killed/answers.jsonl").read_text().splitlines(keepends=True)
    Path("killed/answers.jsonl").write_text("".join(kept[:7]) + kept[7][:20])  # the end of a process in mid-line
    Path("killed/run.json").unlink()
    again = done(*words, "killed", "--rows", "base,t2l", "--json")
    assert "7 answers that 'killed' has already are used" in again.stderr
    assert dict(read_answers("killed")) == dict(read_answers("whole"))
    assert json.loads(again.stdout)["scores"] == whole["scores"]
    more = document(*words, "killed", "--rows", "vague")
    assert set(more["rows"]) == {"base", "t2l", "vague"} and [one["answers"] for one in more["answering"]] == [
        30,
        23,
        15,
    ]
    assert "another max_new_tokens" in refused(*words, "killed", "--max-new-tokens", "6")


def test_answers_of_another_machine_are_scored_without_a_model(place: SimpleNamespace) -> None:
    words = ["evaluate", "--suite", "sni", place.tasks]
    first = done(*words, "--base", place.base, *FEW, "-o", "run", "--no-score", "--rows", "base")
    assert "--score-only" in first.stderr and not Path("run/run.json").exists()
    settings = json.loads(Path("run/settings.json").read_text())
    settings["base"] = "not/there"  # nothing may try to load it
    Path("run/settings.json").write_text(json.dumps(settings))
    run = document(*words, "-o", "run", "--score-only")
    assert run["summary"]["base"]["answers"] == 15
    assert "holds no answers" in refused(*words, "-o", "empty", "--score-only")
    assert "needs the folder" in refused(*words, "--score-only")


def test_without_rouge_score_answers_are_kept_for_later(
    place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rouge_score", "rouge_score.rouge_scorer", "nltk", "lm_eval", "gguf"):
        monkeypatch.setitem(sys.modules, name, None)  # as on a machine that lacks them
    words = ["evaluate", "--suite", "sni", place.tasks, "-o", "run"]
    said = done(*words, "--base", place.base, *FEW, "--rows", "base", "--limit", "1").stderr
    assert "needs rouge_score" in said and "--score-only --limit 1" in said
    assert len(read_answers("run")) == 3
    assert "rouge_score" in refused(*words, "--score-only", "--limit", "1")


def test_bad_input(place: SimpleNamespace, tmp_path: Path) -> None:
    suite = ["evaluate", "--suite", "sni"]
    assert "No folder of tasks" in refused(*suite)
    assert "There is no" in refused(*suite, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no task" in refused(*suite, tmp_path / "empty")
    broken = tmp_path / "broken"
    write_tasks(broken)
    (broken / "task009_broken.json").write_text('{"Definition": ["x"], "Instances"')
    assert "task009_broken.json' is not JSON" in refused(*suite, broken)
    nameless = {"Definition": [], "Instances": [{"input": "a", "output": "b"}]}
    (broken / "task009_broken.json").write_text(json.dumps(nameless))
    assert "has no definition" in refused(*suite, broken)
    assert "with a suite alone" in refused("evaluate", place.tasks)
    assert "Did you mean 'vague'" in refused(*suite, place.tasks, "--rows", "vage")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    base = ["--base", place.base, "--rows", "copy-input"]
    assert "something else than a run" in refused(*suite, place.tasks, *base, "-o", tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_libraries_errors_are_of_their_kind(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks")
    with pytest.raises(T2LError, match="limit is 0"):
        load_suite([tmp_path / "tasks"], 0)
    with pytest.raises(DataError, match="comes twice"):
        load_suite([tmp_path / "tasks", tmp_path / "tasks"])
    open_run(tmp_path / "run", {"seed": 0}, {"t2l": "one"})
    with pytest.raises(OutputError, match="another row 't2l'"):
        open_run(tmp_path / "run", {"seed": 0}, {"t2l": "two"})
