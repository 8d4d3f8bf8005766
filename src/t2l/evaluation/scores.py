"""Scores of Super-Natural-Instructions: ROUGE-L and exact match as the official evaluation computes them.

Level 5. ROUGE-L is the F-measure of the package rouge_score with stemming, exact match compares texts in lower case
without ASCII punctuation and superfluous space, and the best of an instance's references counts (allenai/natural-
instructions, ``eval/automatic/evaluation.py``). This file knows texts; it knows no task, no model and no table.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from t2l.errors import T2LError

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, words joined by single spaces; articles stay."""
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


def exact_match(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer is one of the references, both `normalised`."""
    return normalised(answer) in {normalised(reference) for reference in references}


def can_score() -> bool:
    """Whether rouge_score is installed here."""
    return find_spec("rouge_score") is not None


class RougeL:
    """ROUGE-L (F-measure, with stemming) of an answer against the best of its references.

    Raises:
        T2LError: rouge_score is not installed.
    """

    def __init__(self) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer
            from rouge_score.tokenizers import DefaultTokenizer
        except ImportError as problem:
            raise T2LError(
                f"ROUGE-L needs the package rouge_score: {problem}.", "Install it: pip install 't2l[eval]'"
            ) from problem
        self._scorer = RougeScorer(["rougeL"], tokenizer=_Remembering(DefaultTokenizer(use_stemmer=True)))

    def __call__(self, answer: str, references: Sequence[str]) -> float:
        """Between 0 and 1."""
        return max(float(self._scorer.score(reference, answer)["rougeL"].fmeasure) for reference in references)


class _Remembering:
    """rouge_score's tokenizer, which stems each text once: references and answers come again row by row."""

    def __init__(self, tokenizer: Any, most: int = 100_000) -> None:
        self._tokenizer, self._most = tokenizer, most
        self._known: dict[str, list[str]] = {}

    def tokenize(self, text: str) -> list[str]:
        """Its lower-case, stemmed words."""
        tokens = self._known.get(text)
        if tokens is None:
            if len(self._known) >= self._most:
                self._known.clear()
            tokens = self._known[text] = self._tokenizer.tokenize(text)
        return tokens
