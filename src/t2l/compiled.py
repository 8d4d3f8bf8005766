"""A description as a Python function: ``f = t2l.compile("Copy the date out."); f("See you on 3 June.")``.

Level 3. Checkpoint and base are read once a process, and a description is compiled once: functions are kept by what
makes them, the checkpoint's parameters and the description's text. For many adapters at once, see `t2l.model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import overload

from t2l.adapter import Adapter
from t2l.bases import Base, load_base
from t2l.encoders.description import prepare
from t2l.model import TextToLora, default_checkpoint

_KEPT_FUNCTIONS = 256
_KEPT_MODELS = 2
_MAX_NEW_TOKENS = 64


@dataclass(frozen=True, eq=False)
class TaskFunction:
    """What `compile` returns: a task, as a function from text to text.

    Args:
        description: of the task.
        adapter: what the description was compiled to.
        base: answers, with the adapter; shared by all functions for it.
    """

    description: str
    adapter: Adapter
    base: Base

    @property
    def key(self) -> str:
        """SHA-256 of what made the adapter: equal for equal checkpoints, encoders and descriptions, anywhere."""
        made = self.adapter.provenance
        return sha256(f"{made['checkpoint']}\0{made['encoder']}\0{self.description}".encode()).hexdigest()

    @overload  # one text is a sequence of texts as well, which is not meant
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, text: str, *, max_new_tokens: int = _MAX_NEW_TOKENS
    ) -> str: ...

    @overload
    def __call__(self, text: Sequence[str], *, max_new_tokens: int = _MAX_NEW_TOKENS) -> list[str]: ...

    def __call__(self, text: str | Sequence[str], *, max_new_tokens: int = _MAX_NEW_TOKENS) -> str | list[str]:
        """The greedy answer to a text, or to each of several, which share batches.

        Raises:
            T2LError: a text is empty or too long for the base.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            return []
        answers = self.base.answer(
            texts, spec=self.adapter.spec, weights=self.adapter.weights, max_new_tokens=max_new_tokens
        )
        answers = [answer.strip() for answer in answers]
        return answers[0] if isinstance(text, str) else answers

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Writes the adapter as a folder for PEFT, vLLM and others (`Adapter.save`)."""
        return self.adapter.save(folder, force=force)

    def __repr__(self) -> str:
        return f"<TaskFunction {self.description!r} on {self.base.name}>"


def compile(
    description: str, *, checkpoint: str | Path | None = None, base: str | None = None, device: str = "cpu"
) -> TaskFunction:
    """A function that does the task on a base model, through an adapter made from its description.

    Args:
        checkpoint: makes the adapter; by default the one that ships.
        base: another place where the checkpoint's base lies.
        device: where both compute.

    Raises:
        DescriptionError: the description is empty, over-long or not text.
        CheckpointError: there is no such checkpoint.
        BaseModelError: the base cannot be loaded, or does not fit the checkpoint.

    Example:
        >>> f = compile("Say whether the review is positive or negative.")
        >>> f("Never again."), f(["We will be back!", "Too loud."])  # doctest: +SKIP
    """
    prepare([description])  # before anything is loaded
    t2l = _checkpoint(default_checkpoint() if checkpoint is None else str(checkpoint), device)
    name = t2l.spec.base_name(base)
    return _compiled(t2l, _base(name, device, t2l.system), description.strip())


@lru_cache(maxsize=_KEPT_FUNCTIONS)
def _compiled(t2l: TextToLora, base: Base, description: str) -> TaskFunction:
    t2l.spec.check_base(base.model)
    (adapter,) = t2l.generate([description])
    return TaskFunction(description, adapter, base)


@lru_cache(maxsize=_KEPT_MODELS)
def _checkpoint(source: str, device: str) -> TextToLora:
    return TextToLora.from_pretrained(source, device=device)


@lru_cache(maxsize=_KEPT_MODELS)
def _base(name: str, device: str, system: str) -> Base:
    return load_base(name, device=device).with_system(system)
