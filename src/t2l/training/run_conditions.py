"""The conditions of one run: what its recipe, store and encoder make of the descriptions.

Level 4. Puts `t2l.training.conditions` together with a run's folder; knows no loss and no loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from t2l.data.store import DataStore
from t2l.encoders import DescriptionEncoder
from t2l.errors import CheckpointError
from t2l.lora import LoraSource
from t2l.recipes.reader import Recipe
from t2l.recipes.sections import BaseSection
from t2l.storage import read_tensors, tensors_digest, write_tensors
from t2l.training.conditions import Conditions, StepConditions, Wanted, described, encode_table, table_of
from t2l.training.run_folder import RunFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

_TEXTS_FOR_SCALE = 512  # descriptions from which that of token states is taken
_AT_ONCE = 8  # of them


def run_conditions(
    store: DataStore,
    encoder: DescriptionEncoder,
    tasks: list[int],
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    say: Callable[[str], None],
) -> Conditions:
    """The embeddings of the descriptions: made once by the main process, then read from the run's folder.

    An encoder that offers it encodes each step's texts anew instead.
    """
    texts = described(store, tasks, recipe.data.descriptions_per_task)
    if hasattr(encoder, "step_conditions"):
        example = ExampleTexts(store, recipe.base) if recipe.condition.examples else None
        return StepConditions(encoder, texts, example)
    path = folder.folder / "conditions.safetensors"
    mark = f"mark.{_texts_digest(texts, encoder.identity)}"
    if accelerator.is_main_process and not (path.is_file() and mark in read_tensors(path, CheckpointError)):
        say(f"Encoding the descriptions of {len(tasks)} tasks with {encoder.identity}.")
        temporary = path.with_suffix(".tmp")
        write_tensors(temporary, {mark: torch.zeros(1), **encode_table(encoder, texts, say)})
        temporary.replace(path)
    accelerator.wait_for_everyone()
    table = table_of(read_tensors(path, CheckpointError), texts, encoder.dim)
    table.noise = recipe.condition.noise
    return table


class ExampleTexts:
    """Input and output of a sample as texts, from its tokens and the frame that the store records."""

    def __init__(self, store: DataStore, base: BaseSection) -> None:
        from t2l.bases import load_tokenizer

        self._store = store
        self._tokenizer = load_tokenizer(base.model, revision=base.revision)
        frame = store.manifest["frame"]
        self._around = [frame[name] for name in ("before", "after", "opening", "closing")]

    def __call__(self, task: int, sample: int) -> tuple[str, str]:
        found = self._store.sample(task, sample)
        prompt = self._tokenizer.decode(found.input_ids[: found.prompt_length])
        response = self._tokenizer.decode(found.input_ids[found.prompt_length :])
        before, after, opening, closing = self._around
        return (
            prompt.removeprefix(before).removesuffix(after),
            response.removeprefix(opening).removesuffix(closing),
        )


def standardise_tokens(
    conditions: Conditions, source: LoraSource, tasks: tuple[int, ...], device: torch.device
) -> None:
    """Tells a source that standardises token states itself their mean and spread, over some descriptions of each task.

    The first token of a text is left out, as its few huge states would hide the spread of the rest.
    """
    encoder = getattr(source, "task_encoder", None)
    standardise = getattr(encoder, "standardise", None)
    if encoder is None or standardise is None:
        return
    wanted = [Wanted(task, number) for number in range(4) for task in tasks if number < conditions.count(task)]
    states, kept = [], wanted[:_TEXTS_FOR_SCALE]
    for start in range(0, len(kept), _AT_ONCE):
        condition_CE = conditions.on_device(conditions.gather(kept[start : start + _AT_ONCE]), device)
        state_KW = condition_CE.unflatten(1, (-1, encoder.token_dim))[:, 1:].flatten(0, 1)
        states.append(state_KW[(state_KW != 0).any(dim=-1)].float().cpu())
    standardise(torch.cat(states))


def _texts_digest(texts: dict[int, tuple[str, ...]], identity: str) -> str:
    whole = "\0".join([identity, *(text for own in texts.values() for text in own)])
    return tensors_digest({"texts": torch.frombuffer(bytearray(whole.encode()), dtype=torch.uint8)})[:16]
