"""Many adapters trained side by side: the rows of a table, in shared passes of the frozen base.

A step draws samples of every row that still improves. The loss is the sum of the rows' own losses, the gradient is
clipped row by row and Adam works element by element, so a row goes the way that it would go alone. Each row has early
stopping on its own validation samples and keeps its best weights.

Axis letters: N rows, C chosen rows, S samples, T tokens, K labelled positions, V vocabulary.

Level 4. Knows token ids and labels; does not know texts, or what a task is beyond its name.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.batched import apply_batched
from t2l.errors import OutputError, T2LError, TrainingStopped
from t2l.library import Library
from t2l.lora import AdapterTable, LoraSpec, LoraWeights
from t2l.recipes.reader import Recipe
from t2l.recipes.sections import LibrarySection, LoopSection, LossSection
from t2l.storage import read_pickled
from t2l.training.batches import Batch, Tokens, collate, cut_by_tokens
from t2l.training.loop import stop_requests
from t2l.training.sft import (
    LOGITS_AT_ONCE,
    labelled_hidden,
    logits_of,
    mean_squares,
    noisy_embeddings,
    vocabulary,
    weighted_loss,
)
from t2l.training.source import rate_factor

Report = Callable[[int, int, float], None]
"""Called after each step with (steps done, steps in all, mean loss of the rows)."""
STATE_FILE = ".training.pt"
PASS_TOKENS = 8192
"""Tokens that go through the base together, padding included."""
_OVERHEAD = 64  # what starting a pass costs, in tokens


@dataclass(frozen=True)
class RowTask:
    """One task to train an adapter for.

    Args:
        name: of the adapter in the library.
        draw: the samples of one optimiser step; a function of the step's number alone, so that a killed run resumes
            exactly and no task depends on another.
        validation: what early stopping measures.
        record: what else is noted with the adapter, as plain JSON values.
    """

    name: str
    draw: Callable[[int], Sequence[Tokens]]
    validation: Sequence[Tokens]
    record: Mapping[str, Any] = field(default_factory=dict)


def row_settings(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe determines an adapter (how it is computed aside), as plain JSON values that a library notes."""
    library, loop, loss = recipe.library, recipe.loop, recipe.loss
    schedule = {"steps": library.steps, "warmup": round(library.warmup * library.steps), "decay": library.decay}
    terms = {"label_smoothing": loss.label_smoothing, "weight_penalty": loss.weight_penalty}
    return {
        "loop": {**schedule, "clip": loop.clip, "seed": loop.seed, "cosine": False},
        **{name: getattr(library, name) for name in ("learning_rate", "weight_decay", "check_every", "patience")},
        "sft": {
            **terms,
            "lora_dropout": recipe.lora.dropout,
            **({"neftune": loss.neftune} if loss.neftune else {}),  # libraries from before it have none
        },
    }


def train_rows(
    base: Any, spec: LoraSpec, library: Library, tasks: Sequence[RowTask], recipe: Recipe, *, report: Report
) -> Library:
    """Adds an adapter for each task to a library; those that are there already are not trained again.

    An adapter's record has its best ``validation_loss``, the step ``best_step`` it was reached at (0: the base itself
    was best), the ``steps`` trained, and ``stopped``: "patience", "steps" or "diverged" (its gradient was no longer
    finite). A library's runs are short and its state is small: it is saved at every look at the validation samples.

    Args:
        base: frozen causal LM.
        recipe: its sections ``library``, ``loss``, ``lora`` and ``loop`` (clip, seed, save_every).
        report: steps that early stopping saves are reported as done.

    Raises:
        T2LError: two tasks share a name, a task has no validation samples, or the folder holds the state of a killed
            run with other settings.
        OutputError: the folder cannot be written.
        TrainingStopped: after SIGTERM, when the state has been saved.
    """
    names = [task.name for task in tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise T2LError(f"Two tasks are called '{repeated[0]}'; each adapter of a library needs its own name.")
    unmeasured = next((task.name for task in tasks if not task.validation), None)
    if unmeasured is not None:
        raise T2LError(f"The task '{unmeasured}' has no validation samples, which early stopping needs.")
    state_path = library.folder / STATE_FILE
    missing = [task for task in tasks if task.name not in library]
    if not missing:
        state_path.unlink(missing_ok=True)
        return library
    base.requires_grad_(False)
    steps, together = recipe.library.steps, recipe.library.together
    chunks = [missing[start : start + together] for start in range(0, len(missing), together)]
    total = len(chunks) * steps
    save_every = min(recipe.loop.save_every, recipe.library.check_every)
    with stop_requests(signal.SIGTERM) as stop:
        for number, chunk in enumerate(chunks):
            done = number * steps
            rows = _Rows(
                base, spec, chunk, recipe.library, recipe.loop, recipe.loss, recipe.lora.dropout, row_settings(recipe)
            )
            rows.restore(state_path, library)
            while rows.active:
                loss = rows.step()
                stopping = stop.asked and bool(rows.active)
                if rows.steps % save_every == 0 or stopping:
                    rows.save(state_path)
                report(done + rows.steps if rows.active else done + steps, total, loss)
                if stopping:
                    raise TrainingStopped(done + rows.steps, total)
            library.add(rows.results())
            state_path.unlink(missing_ok=True)
    return library


def collate_rows(samples: Sequence[tuple[int, Tokens]], tokens: int = PASS_TOKENS) -> list[Batch]:
    """(row, sample) pairs in right-padded batches of samples of similar length, by row within.

    Args:
        tokens: in a batch at most, padding included; a longer sample is a batch of its own.
    """
    batches = []
    for places in cut_by_tokens([len(ids) for _, (ids, _) in samples], tokens, _OVERHEAD):
        part = sorted((samples[place] for place in places), key=lambda pair: pair[0])
        batches.append(collate([sample for _, sample in part], [row for row, _ in part]))
    return batches


@torch.no_grad()
def row_losses(base: Any, spec: LoraSpec, weights: LoraWeights, batches: Sequence[Batch]) -> Tensor:
    """Next-token loss of each of N adapters on its own samples, (N,): averaged within a sample, then over samples."""
    rows, device = weights.num_samples, next(base.parameters()).device
    count_N = torch.bincount(torch.cat([batch.index_S for batch in batches]), minlength=rows).clamp_min(1)
    total_N = torch.zeros(rows, device=device)
    at_once = max(1, LOGITS_AT_ONCE // vocabulary(base))
    for batch in batches:
        with apply_batched(base, spec, weights, batch.index_S):
            hidden_KW, targets_K, sample_K = labelled_hidden(base, batch.ids_ST.to(device), batch.labels_ST)
        parts = zip(hidden_KW.split(at_once), targets_K.split(at_once), strict=True)
        losses = [F.cross_entropy(logits_of(base, part).float(), goal, reduction="none") for part, goal in parts]
        loss_K = torch.cat(losses)
        length_S = torch.bincount(sample_K, minlength=len(batch.ids_ST)).clamp_min(1)
        loss_S = torch.zeros_like(length_S, dtype=loss_K.dtype).index_add(0, sample_K, loss_K) / length_S
        total_N = total_N.index_add(0, batch.index_S.to(device), loss_S)
    return total_N / count_N.to(device)


def rows_backward(
    base: Any, spec: LoraSpec, weights: LoraWeights, batches: Sequence[Batch], loss: LossSection, dropout: float = 0.0
) -> float:
    """Adds the gradient of the sum of the rows' losses to what the weights are made of, a pass at a time.

    Gives that sum; each row's loss is averaged within a sample, then over its samples.

    Args:
        weights: N adapters: parameters, or made of some.
    """
    device = next(base.parameters()).device
    count_N = torch.bincount(torch.cat([batch.index_S for batch in batches]), minlength=weights.num_samples)
    gradients, total = weights.map(torch.zeros_like), 0.0
    for batch in batches:
        used_C, place_S = batch.index_S.unique(return_inverse=True)
        chosen_C = used_C.to(device)
        local = weights.map(lambda tensor, rows=chosen_C: tensor.detach().index_select(0, rows).requires_grad_())
        ids_ST, share_S = batch.ids_ST.to(device), 1 / count_N[batch.index_S]
        lengths_S = batch.lengths_S if loss.neftune else share_S
        with apply_batched(base, spec, local, place_S, dropout=dropout):
            with noisy_embeddings(base, lengths_S, loss.neftune):
                hidden = labelled_hidden(base, ids_ST, batch.labels_ST)
            own = weighted_loss(base, *hidden, share_S, loss.label_smoothing)
            own.backward()
        total += own.item()
        for total_grad, tensor in zip(gradients.tensors, local.tensors, strict=True):
            if tensor.grad is not None:
                total_grad.index_add_(0, chosen_C, tensor.grad)
    torch.autograd.backward(weights.tensors, gradients.tensors)
    return total


@torch.no_grad()
def clip_rows(tensors: Sequence[Tensor], clip: float) -> list[bool]:
    """Clips each row's gradient by its own norm; which rows have a finite one."""
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
    square_N = torch.stack([gradient.float().square().flatten(1).sum(dim=1) for gradient in gradients]).sum(dim=0)
    norm_N = square_N.sqrt()
    factor_N = (clip / (norm_N + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factor_N.view(-1, *[1] * (gradient.dim() - 1)).to(gradient.dtype))
    return norm_N.isfinite().tolist()


class _Rows:
    """The training of one chunk of adapters, from where its saved state left it."""

    def __init__(
        self,
        base: Any,
        spec: LoraSpec,
        tasks: Sequence[RowTask],
        library: LibrarySection,
        loop: LoopSection,
        loss: LossSection,
        dropout: float,
        settings: Mapping[str, Any],
    ) -> None:
        self.base, self.spec, self.tasks, self.settings = base, spec, tasks, settings
        self.library, self.loop, self.loss, self.dropout = library, loop, loss, dropout
        self.device = next(base.parameters()).device
        self.table = AdapterTable(spec, [loop.seed] * len(tasks)).to(self.device)
        self.best = self.table.table().map(lambda tensor: tensor.detach().clone())
        self.optimizer = torch.optim.AdamW(
            self.table.parameters(), lr=library.learning_rate, weight_decay=library.weight_decay, betas=(0.9, 0.98)
        )
        self.steps = 0
        self.active = list(range(len(tasks)))
        self.fresh = True  # not measured yet
        self.records: list[dict[str, Any]] = [
            {"validation_loss": None, "best_step": 0, "steps": 0, "stopped": "", "misses": 0} for _ in tasks
        ]

    def step(self) -> float:
        """One optimiser step of all rows that still improve; gives the mean of their losses."""
        if self.fresh:
            self._measure()
            self.fresh = False
        library, seed = self.library, self.loop.seed
        torch.manual_seed((seed << 32) + self.steps)  # LoRA dropout, the same after a resume
        factor = rate_factor(self.steps, library.steps, library.warmup, library.decay)
        for group in self.optimizer.param_groups:
            group["lr"] = library.learning_rate * factor
        loss = self._backward()
        finite = clip_rows(list(self.table.parameters()), self.loop.clip)
        self._stop([row for row in self.active if not finite[row]], "diverged")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        for row in self.active:
            self.records[row]["steps"] = self.steps
        last = self.steps >= library.steps
        if self.active and (last or self.steps % library.check_every == 0):
            self._measure()
        if last:
            self._stop(self.active, "steps")
        return loss

    def results(self) -> dict[str, tuple[LoraWeights, dict[str, Any]]]:
        """The best weights of every row, with its record."""
        found = {}
        for row, (task, record) in enumerate(zip(self.tasks, self.records, strict=True)):
            noted = {**task.record, **{name: value for name, value in record.items() if name != "misses"}}
            found[task.name] = (self.best.select(row).to("cpu"), noted)
        return found

    def _backward(self) -> float:
        """Gradients of the sum of the active rows' losses; gives their mean."""
        drawn = [(row, sample) for row in self.active for sample in self.tasks[row].draw(self.steps)]
        batches = collate_rows(drawn, self.library.pass_tokens)
        loss = self.loss
        total = rows_backward(self.base, self.spec, self.table.table(), batches, loss, self.dropout)
        if loss.weight_penalty:
            weights = self.table.rows(torch.tensor(self.active))
            (loss.weight_penalty * len(self.active) * mean_squares(weights)).backward()
        return total / len(self.active)

    @torch.no_grad()
    def _measure(self) -> None:
        """Validation losses of the active rows; keeps what is best so far, and stops rows out of patience."""
        rows = list(self.active)
        samples = [(place, sample) for place, row in enumerate(rows) for sample in self.tasks[row].validation]
        training = self.base.training
        self.base.eval()
        weights = self.table.rows(torch.tensor(rows))
        losses = row_losses(self.base, self.spec, weights, collate_rows(samples, self.library.pass_tokens)).tolist()
        self.base.train(training)
        table = self.table.table()
        for row, loss in zip(rows, losses, strict=True):
            record = self.records[row]
            if math.isfinite(loss) and (record["validation_loss"] is None or loss < record["validation_loss"]):
                record.update(validation_loss=loss, best_step=self.steps, misses=0)
                self.best.map(lambda best, now, row=row: best[row].copy_(now[row]), table)
            else:
                record["misses"] += 1
        self._stop([row for row in rows if self.records[row]["misses"] >= self.library.patience], "patience")

    def _stop(self, rows: Sequence[int], reason: str) -> None:
        for row in rows:
            self.records[row]["stopped"] = reason
        self.active = [row for row in self.active if row not in set(rows)]

    # The state of a killed run

    def save(self, path: Path) -> None:
        """Writes all that the rest of the run depends on, whole or not at all."""
        state = {
            "names": [task.name for task in self.tasks],
            "settings": self.settings,
            "steps": self.steps,
            "active": self.active,
            "records": self.records,
            "table": self.table.state_dict(),
            "best": {"a": self.best.a, "b": self.best.b},
            "optimizer": self.optimizer.state_dict(),
        }
        write_state(path, state)

    def restore(self, path: Path, library: Library) -> None:
        """Goes on from a saved state, where there is one."""
        state, afresh = read_state(path, ("names", "settings"), device=self.device), _afresh(path)
        if state is None:
            return
        names, settings = list(state["names"]), state["settings"]
        if all(name in library for name in names):  # killed after the chunk was stored
            return
        if names != [task.name for task in self.tasks] or settings != self.settings:
            raise T2LError(
                f"The training state '{path}' is of a run with other tasks or settings.",
                f"Use the same tasks, in the same order, and the same settings; or: {afresh}",
            )
        try:
            best = LoraWeights(dict(state["best"]["a"]), dict(state["best"]["b"]))
            best.check(self.spec)
            self.table.load_state_dict(state["table"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best, self.records, self.active = best, list(state["records"]), list(state["active"])
            self.steps, self.fresh = int(state["steps"]), False
        except (KeyError, TypeError, ValueError, RuntimeError) as problem:  # as torch reports another structure
            raise T2LError(f"The training state '{path}' is not of these adapters: {problem}", afresh) from problem


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes all that the rest of a run depends on; a state that is there already stays until the new one is whole.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(dict(state), temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as problem:  # a full disk is a RuntimeError to torch
        temporary.unlink(missing_ok=True)
        raise OutputError(f"Cannot write the training state '{path}': {problem}.", "Free some space.") from problem


def read_state(path: Path, parts: Sequence[str], *, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """What `write_state` wrote; None where there is no such file.

    Args:
        parts: names that it must have.
        device: where its tensors go.

    Raises:
        T2LError: the file is damaged, of another kind, or holds more than tensors and plain values.
    """
    if not path.exists():
        return None
    try:
        state = read_pickled(path, T2LError, device=device)
        return {**state, **{name: state[name] for name in parts}}
    except Exception as problem:  # torch and zipfile each raise their own kinds
        reason = getattr(problem, "message", str(problem)) or type(problem).__name__
        raise T2LError(f"The training state '{path}' cannot be read: {reason}", _afresh(path)) from problem


def _afresh(path: Path) -> str:
    return f"Delete '{path}' to start afresh."
