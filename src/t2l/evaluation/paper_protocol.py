"""The paper's protocol on its ten benchmarks: greedy generation, and the first choice that the answer names counts.

Level 5. Each benchmark is a plain config of lm-evaluation-harness, with Python functions in place of templates: the
harness loads the data, shows examples and asks. The task's description stands in no prompt, unlike in the reference
implementation, where the adapter need not carry it. A program that a model wrote runs in a process of its own, and only
where the user said so. This file knows the schemas of ten data sets; it knows no model.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

LETTERS = "ABCDEFGH"
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_ANSWER_TOKENS = 64  # for an answer that is a letter: room for a sentence around it
_LONG_TOKENS = 512  # as in the paper's runs
_ENDS = ("\nQuestion:", "\n\nQuestion")
_MEMORY = 2 << 30
_FILE_SIZE = 1 << 24
_LIMITS = """
import resource, sys
for kind, most in ((resource.RLIMIT_AS, {memory}), (resource.RLIMIT_FSIZE, {size}), (resource.RLIMIT_CPU, {seconds})):
    resource.setrlimit(kind, (most, most))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
exec(compile(sys.stdin.read(), "program", "exec"), {{"__name__": "__main__"}})
sys.stdout.flush()
__import__("os")._exit({passed})
"""
_PASSED = 86  # so that a program that leaves early with 0 has not passed


def configs() -> dict[str, dict[str, Any]]:
    """Benchmark -> the harness's config, its data on the hub."""
    return {
        "arc_challenge": _choosing(
            "allenai/ai2_arc", "ARC-Challenge", "test", "train", _arc_question, _labelled_target
        ),
        "arc_easy": _choosing("allenai/ai2_arc", "ARC-Easy", "test", "train", _arc_question, _labelled_target),
        "boolq": _choosing(
            "aps/super_glue", "boolq", "validation", "train", _boolq_question, _boolq_target, _first_yes_or_no
        ),
        "hellaswag": _choosing(
            "Rowan/hellaswag", None, "validation", "train", _hellaswag_question, lambda doc: LETTERS[int(doc["label"])]
        ),
        "openbookqa": _choosing("allenai/openbookqa", "main", "test", "train", _openbook_question, _labelled_target),
        "piqa": _choosing(
            "baber/piqa", None, "validation", "train", _piqa_question, lambda doc: LETTERS[int(doc["label"])]
        ),
        "winogrande": _choosing(
            "allenai/winogrande",
            "winogrande_xl",
            "validation",
            "train",
            _winogrande_question,
            lambda doc: LETTERS[int(doc["answer"]) - 1],
        ),
        "gsm8k": _generating(
            "openai/gsm8k", "main", "test", "train", _gsm8k_question, lambda doc: doc["answer"], _gsm8k_right
        )
        | {"gen_prefix": "Let's think step by step."},
        "humaneval": code_config("humaneval"),
        "mbpp": code_config("mbpp"),
    }


def code_config(benchmark: str) -> dict[str, Any]:
    """HumanEval or MBPP, in either protocol: the program runs in a process of its own (``unsafe_code``)."""
    if benchmark == "humaneval":
        config = _generating(
            "openai/openai_humaneval", None, "test", None, lambda doc: doc["prompt"], _humaneval_tests, _humaneval_right
        )
        ends = ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint("]
    else:
        config = _generating(
            "google-research-datasets/mbpp", "full", "test", "prompt", _mbpp_question, _mbpp_target, _mbpp_right
        )
        config["gen_prefix"] = "```python\n"
        ends = ["\n```", "\nassert ", "[DONE]"]
    config["generation_kwargs"] = {"until": ends, "max_gen_toks": _LONG_TOKENS, "do_sample": False}
    return config | {"unsafe_code": True, "target_delimiter": ""}


def first_choice(answer: str, letters: str = LETTERS) -> str:
    """The first letter of a choice that stands alone in an answer, and "" where there is none."""
    found = re.search(rf"\b([{letters}])\b", answer)
    return found[1] if found else ""


def last_number(answer: str) -> str:
    """The last number of an answer without currency signs and thousands' commas, and "" where there is none."""
    found = _NUMBER.findall(answer)
    return found[-1].replace(",", "").replace("$", "").rstrip(".") if found else ""


def _generating(
    path: str,
    name: str | None,
    split: str,
    shots: str | None,
    question: Callable[[Any], str],
    target: Callable[[Any], str],
    right: Callable[[Any, str], bool],
) -> dict[str, Any]:
    def process_results(doc: Any, results: Sequence[str]) -> dict[str, float]:
        return {"acc": float(right(doc, results[0]))}

    config = {
        "dataset_path": path,
        "dataset_name": name,
        "output_type": "generate_until",
        "test_split": split,
        "doc_to_text": question,
        "doc_to_target": target,
        "process_results": process_results,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": list(_ENDS), "max_gen_toks": _LONG_TOKENS, "do_sample": False},
        "num_fewshot": None,
        "metadata": {"version": 1.0},
    }
    return config if shots is None else config | {"fewshot_split": shots}


def _choosing(
    path: str,
    name: str | None,
    split: str,
    shots: str,
    question: Callable[[Any], str],
    target: Callable[[Any], str],
    chosen: Callable[[str], str] = first_choice,
) -> dict[str, Any]:
    config = _generating(path, name, split, shots, question, target, lambda doc, answer: chosen(answer) == target(doc))
    config["generation_kwargs"] = {"until": list(_ENDS), "max_gen_toks": _ANSWER_TOKENS, "do_sample": False}
    return config


def _lettered(question: str, choices: Sequence[str], ask: str = "Answer with the letter of the right choice.") -> str:
    listed = "\n".join(f"{LETTERS[place]}. {choice}" for place, choice in enumerate(choices))
    return f"Question: {question.strip()}\n{listed}\n{ask}\nAnswer:"


def _labelled_target(doc: Any) -> str:
    """The letter by position: some questions label their choices 1 to 4."""
    return LETTERS[doc["choices"]["label"].index(doc["answerKey"].strip())]


def _arc_question(doc: Any) -> str:
    return _lettered(doc["question"], doc["choices"]["text"])


def _openbook_question(doc: Any) -> str:
    return _lettered(doc["question_stem"], doc["choices"]["text"])


def _boolq_question(doc: Any) -> str:
    return f"{doc['passage'].strip()}\nQuestion: {doc['question'].strip()}?\nAnswer yes or no.\nAnswer:"


def _boolq_target(doc: Any) -> str:
    return "yes" if int(doc["label"]) else "no"


def _first_yes_or_no(answer: str) -> str:
    found = re.search(r"\b(yes|no|true|false)\b", answer.lower())
    return {"true": "yes", "false": "no"}.get(found[1], found[1]) if found else ""


def _hellaswag_question(doc: Any) -> str:
    beginning = f"{doc['ctx_a']} {doc['ctx_b'].capitalize()}".strip()
    return _lettered(f"({doc['activity_label']}) {beginning}", doc["endings"], "Which continuation fits best? Letter.")


def _piqa_question(doc: Any) -> str:
    return _lettered(doc["goal"], [doc["sol1"], doc["sol2"]], "Which way works better? Answer with its letter.")


def _winogrande_question(doc: Any) -> str:
    ask = "What belongs in place of the underscore? Answer with its letter."
    return _lettered(doc["sentence"], [doc["option1"], doc["option2"]], ask)


def _gsm8k_question(doc: Any) -> str:
    return f"Question: {doc['question'].strip()}\nEnd with the final number after ####.\nAnswer:"


def _gsm8k_right(doc: Any, answer: str) -> bool:
    wanted = last_number(doc["answer"].rsplit("####", 1)[-1])
    found = last_number(answer)
    return bool(found) and float(found) == float(wanted)


def _humaneval_tests(doc: Any) -> str:
    return f"{doc['test']}\ncheck({doc['entry_point']})"


def _humaneval_right(doc: Any, answer: str) -> bool:
    body = _without_fence(answer)
    whole = body if f"def {doc['entry_point']}" in body else doc["prompt"] + body
    return not run_program(f"{whole}\n{_humaneval_tests(doc)}\n")


def _mbpp_question(doc: Any) -> str:
    tests = "\n".join(doc["test_list"])
    return f"Write a Python function. {doc['text'].strip()}\nIt must pass these tests:\n{tests}\n"


def _mbpp_target(doc: Any) -> str:
    return doc["code"].replace("\r\n", "\n") + "\n```"


def _mbpp_right(doc: Any, answer: str) -> bool:
    tests = "\n".join([doc.get("test_setup_code") or "", *doc["test_list"]])
    return not run_program(f"{_without_fence(answer)}\n{tests}\n")


def _without_fence(answer: str) -> str:
    """The program inside a Markdown fence, or the answer itself."""
    found = re.search(r"```(?:python)?\n(.*?)(?:\n```|$)", answer, re.DOTALL)
    return found[1] if found else answer.removesuffix("```").rstrip()


def run_program(program: str, *, timeout_s: float = 10.0) -> str:
    """Why the program did not end by itself, without an error, within the time; "" where it did.

    The process is a fresh interpreter with an empty environment in an empty folder, bounded in time, memory, processor
    seconds and file size. That stops accidents, not attacks: it is no sandbox.

    Args:
        program: Python source.
        timeout_s: seconds of wall clock; the whole process group is ended then.
    """
    limits = _LIMITS.format(memory=_MEMORY, size=_FILE_SIZE, seconds=int(timeout_s) + 1, passed=_PASSED)
    with tempfile.TemporaryDirectory(prefix="t2l-code-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            text=True,
        )
        try:
            _, errors = process.communicate(program, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"no end after {timeout_s:g} s"
        finally:
            _end(process)
    if process.returncode == _PASSED:
        return ""
    return (errors.strip().splitlines() or [f"ended with {process.returncode}"])[-1][:200]


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the program and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=5)
