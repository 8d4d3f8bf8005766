"""Oracle adapters: many task-specific LoRAs trained at once, in one batched forward pass on the frozen base.

Every adapter is a row of a table. A step draws samples of every task whose adapter still improves; the loss is the
sum of the rows' own losses, the gradient is clipped row by row and Adam works element by element, so a row goes the
way that it would go alone. Each row has early stopping on its own validation samples and keeps its best weights.

Axis letters: N rows of the table, C conditions, S samples, T tokens, K labelled positions, V vocabulary, L layers,
R rank, I in-features, O out-features.

Level 4. Knows token ids and labels; does not know texts, or what a task is beyond its name.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.adapter_table import AdapterTable
from t2l.batched import apply_batched
from t2l.errors import T2LError, TrainingStopped
from t2l.library import Library
from t2l.lora import LoraSpec, LoraWeights
from t2l.recipes.sections import LossSection
from t2l.training.batches import IGNORED, Batch
from t2l.training.loop import LoopConfig, Report
from t2l.training.sft import (
    LOGITS_AT_ONCE,
    labelled_hidden,
    logits_of,
    mean_squares,
    noisy_embeddings,
    vocabulary,
    weighted_loss,
)
from t2l.training.state import afresh, read_state, write_state
from t2l.training.stopping import stop_requests

Sample = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt with its answer, and the labels: -100 where nothing is predicted."""
STATE_FILE = ".training.pt"
_PAD = 0  # any id: under causal attention, what comes after the end changes nothing before it


@dataclass(frozen=True)
class OracleTask:
    """One task to train an adapter for.

    Args:
        name: of the adapter in the library.
        draw: the samples of one optimiser step; a function of the step's number alone, so that a killed run resumes
            exactly and no task depends on another.
        validation: what early stopping measures.
        record: what else is noted with the adapter, as plain JSON values.
    """

    name: str
    draw: Callable[[int], Sequence[Sample]]
    validation: Sequence[Sample]
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OracleConfig:
    """Settings of the training of oracle adapters.

    Args:
        loop: most steps of an adapter, schedule, gradient clip (of each adapter), seed.
        learning_rate: peak, of AdamW.
        weight_decay: of AdamW.
        check_every: steps between two measurements on the validation samples.
        patience: measurements in a row without a better loss after which an adapter stops.
        chunk: adapters trained at once; memory grows with it, results do not depend on it.
        max_samples: most samples in one forward pass.
        max_tokens: most tokens in one forward pass, padding included; a longer sample goes alone. 0: no limit.
        bfloat16: compute the base in bfloat16 (autocast).
        loss: its terms; what the library does not have (teacher, contrast) is not read.
        dropout: chance of dropping an input of the LoRA branch.
    """

    loop: LoopConfig
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    check_every: int = 25
    patience: int = 4
    chunk: int = 64
    max_samples: int = 48
    max_tokens: int = 0
    bfloat16: bool = False
    loss: LossSection = field(default_factory=lambda: LossSection(label_smoothing=0.0))
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("check_every", "patience", "chunk", "max_samples"):
            if getattr(self, name) < 1:
                raise T2LError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.max_tokens < 0:
            raise T2LError(f"max_tokens is {self.max_tokens}; it must be positive, or 0 for no limit.")

    def settings(self) -> dict[str, Any]:
        """What determines an adapter (how it is computed aside), as plain JSON values."""
        values = asdict(self)
        for name in ("chunk", "max_samples", "max_tokens", "bfloat16", "dropout"):
            del values[name]
        del values["loop"]["save_every"]
        loss = values.pop("loss")
        values["sft"] = {name: loss[name] for name in ("label_smoothing", "weight_penalty")}
        values["sft"]["lora_dropout"] = self.dropout
        # libraries from before there were these settings stay what they are
        if loss["neftune"]:
            values["sft"]["neftune"] = loss["neftune"]
        if not values["loop"]["restart"]:
            del values["loop"]["restart"]
        return values


def train_oracles(
    base: Any,
    spec: LoraSpec,
    target: Library | str | Path,
    tasks: Sequence[OracleTask],
    config: OracleConfig,
    *,
    settings: Mapping[str, Any] | None = None,
    report: Report,
) -> Library:
    """A library with an adapter for each task; those that are there already are not trained again.

    An adapter's record has its best ``validation_loss``, the step ``best_step`` it was reached at (0: the base itself
    was best), the ``steps`` trained, and ``stopped``: "patience", "steps" or "diverged" (its gradient was no longer
    finite).

    Args:
        base: frozen causal LM.
        target: the library, or the folder of one.
        settings: of the library of a folder: what else determines the adapters, such as the base and how samples are
            drawn, as plain JSON values; the library notes it, and adapters made otherwise are not mixed in.
        report: called after each step with (steps done, steps in all, mean loss of the rows); steps that early
            stopping saves are reported as done.

    Raises:
        T2LError: two tasks share a name, a task has no validation samples, or the folder holds a library, or the
            state of a killed run, with other settings.
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
    if isinstance(target, Library):
        library = target
    else:
        library = Library.create(target, spec, {**config.settings(), **(settings or {})})
    state_path = library.folder / STATE_FILE
    missing = [task for task in tasks if task.name not in library]
    if not missing:
        state_path.unlink(missing_ok=True)
        return library
    base.requires_grad_(False)
    chunks = [missing[start : start + config.chunk] for start in range(0, len(missing), config.chunk)]
    total = len(chunks) * config.loop.steps
    with stop_requests(signal.SIGTERM) as stop:
        for number, chunk in enumerate(chunks):
            done = number * config.loop.steps
            run = _Run(base, spec, chunk, config)
            run.restore(state_path, library)
            while run.active:
                loss = run.step()
                stopping = stop.asked and run.active
                if run.steps % config.loop.save_every == 0 or stopping:
                    run.save(state_path)
                report(done + run.steps if run.active else done + config.loop.steps, total, loss)
                if stopping:
                    raise TrainingStopped(done + run.steps, total)
            library.add(run.results())
            state_path.unlink(missing_ok=True)
    return library


def row_losses(
    base: Any, spec: LoraSpec, weights: LoraWeights, batches: Sequence[Batch], label_smoothing: float = 0.0
) -> Tensor:
    """Next-token loss of each of N adapters on its own samples, (N,): averaged within a sample, then over samples.

    Summed over the rows and divided by N it is the SFT loss, where each has as many samples.
    """
    rows = weights.num_samples
    index_S = torch.cat([batch.index_S for batch in batches])
    count_N = torch.bincount(index_S, minlength=rows).clamp_min(1)
    total_N = torch.zeros(rows, device=next(iter(weights.a.values())).device)
    for batch in batches:
        with apply_batched(base, spec, weights, batch.index_S):
            loss_S = _sample_losses(base, batch, label_smoothing)
        total_N = total_N.index_add(0, batch.index_S.to(total_N.device), loss_S.to(total_N.device))
    return total_N / count_N.to(total_N.device)


def collate(samples: Sequence[tuple[int, Sample]], most: int, tokens: int = 0) -> list[Batch]:
    """(row, sample) pairs in right-padded batches of samples of similar length, by row within.

    Args:
        most: samples in a batch at most.
        tokens: in a batch at most, padding included; a longer sample is a batch of its own. 0: no limit.
    """
    ordered = sorted(samples, key=lambda pair: len(pair[1][0]))
    parts: list[list[tuple[int, Sample]]] = []
    for pair in ordered:
        room = len(parts[-1]) + 1 if parts else 0
        if not room or room > most or (tokens and room * len(pair[1][0]) > tokens):
            parts.append([])
        parts[-1].append(pair)
    batches = []
    for part in parts:
        part.sort(key=lambda pair: pair[0])
        width = max(len(ids) for _, (ids, _) in part)
        ids_ST = torch.full((len(part), width), _PAD)
        labels_ST = torch.full((len(part), width), IGNORED)
        for place, (_, (ids, labels)) in enumerate(part):
            ids_ST[place, : len(ids)] = torch.as_tensor(ids)
            labels_ST[place, : len(labels)] = torch.as_tensor(labels)
        batches.append(Batch(ids_ST, labels_ST, torch.tensor([row for row, _ in part])))
    return batches


def _sample_losses(base: Any, batch: Batch, label_smoothing: float) -> Tensor:
    hidden_KW, targets_K, sample_K = labelled_hidden(base, batch.ids_ST, batch.labels_ST)
    rows = len(hidden_KW) if torch.is_grad_enabled() else max(1, LOGITS_AT_ONCE // vocabulary(base))
    losses = [
        F.cross_entropy(logits_of(base, part_KW).float(), part_K, reduction="none", label_smoothing=label_smoothing)
        for part_KW, part_K in zip(hidden_KW.split(max(1, rows)), targets_K.split(max(1, rows)), strict=True)
    ]
    loss_K = torch.cat(losses)
    length_S = torch.bincount(sample_K, minlength=len(batch.ids_ST)).clamp_min(1)
    return torch.zeros_like(length_S, dtype=loss_K.dtype).index_add(0, sample_K, loss_K) / length_S


class _Run:
    """The training of one chunk of adapters, from where its saved state left it."""

    def __init__(self, base: Any, spec: LoraSpec, tasks: Sequence[OracleTask], config: OracleConfig) -> None:
        self.base, self.spec, self.tasks, self.config = base, spec, tasks, config
        self.device = next(base.parameters()).device
        self.table = AdapterTable(spec, [config.loop.seed] * len(tasks)).to(self.device)
        self.best = self.table.table().map(lambda tensor: tensor.detach().clone())
        self.optimizer = torch.optim.AdamW(
            self.table.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
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
        torch.manual_seed((self.config.loop.seed << 32) + self.steps)  # LoRA dropout, the same after a resume
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.config.loop.factor(self.steps)
        loss = self._backward()
        self._clip_rows()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        for row in self.active:
            self.records[row]["steps"] = self.steps
        last = self.steps >= self.config.loop.steps
        if self.active and (last or self.steps % self.config.check_every == 0):
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
        """Gradients of the sum of the rows' losses, a forward pass at a time; gives the mean loss."""
        drawn = [(row, sample) for row in self.active for sample in self.tasks[row].draw(self.steps)]
        count_N = torch.bincount(torch.tensor([row for row, _ in drawn]), minlength=len(self.tasks)).clamp_min(1)
        value, terms = 0.0, self.config.loss
        for batch in collate(drawn, self.config.max_samples, self.config.max_tokens):
            used, place_S = batch.index_S.unique(return_inverse=True)
            weights = self.table.rows(used)
            on_device = Batch(batch.ids_ST.to(self.device), batch.labels_ST.to(self.device), place_S)
            share_S = (1 / count_N[batch.index_S]).to(self.device)
            lengths_S = on_device.lengths_S if terms.neftune else share_S
            with (
                self._autocast(),
                apply_batched(self.base, self.spec, weights, place_S, dropout=self.config.dropout),
            ):
                with noisy_embeddings(self.base, lengths_S, terms.neftune):
                    hidden = labelled_hidden(self.base, on_device.ids_ST, on_device.labels_ST)
                loss = weighted_loss(self.base, *hidden, share_S, terms.label_smoothing)
                loss.backward()
            value += loss.item()
        if terms.weight_penalty:
            weights = self.table.rows(torch.tensor(self.active))
            (terms.weight_penalty * len(self.active) * mean_squares(weights)).backward()
        return value / len(self.active)

    @torch.no_grad()
    def _clip_rows(self) -> None:
        """Clips each row's gradient by its own norm; a row whose gradient is not finite stops."""
        gradients = [parameter.grad for parameter in self.table.parameters() if parameter.grad is not None]
        square_N = torch.stack([gradient.float().square().flatten(1).sum(dim=1) for gradient in gradients]).sum(dim=0)
        norm_N = square_N.sqrt()
        factor_N = (self.config.loop.clip / (norm_N + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(factor_N.view(-1, *[1] * (gradient.dim() - 1)).to(gradient.dtype))
        finite = norm_N.isfinite().tolist()
        self._stop([row for row in self.active if not finite[row]], "diverged")

    @torch.no_grad()
    def _measure(self) -> None:
        """Validation losses of the active rows; keeps what is best so far, and stops rows out of patience."""
        rows = list(self.active)
        samples = [(place, sample) for place, row in enumerate(rows) for sample in self.tasks[row].validation]
        batches = [
            Batch(batch.ids_ST.to(self.device), batch.labels_ST.to(self.device), batch.index_S)
            for batch in collate(samples, self.config.max_samples, self.config.max_tokens)
        ]
        training = self.base.training
        self.base.eval()
        with self._autocast():
            losses = row_losses(self.base, self.spec, self.table.rows(torch.tensor(rows)), batches).tolist()
        self.base.train(training)
        table = self.table.table()
        for row, loss in zip(rows, losses, strict=True):
            record = self.records[row]
            if math.isfinite(loss) and (record["validation_loss"] is None or loss < record["validation_loss"]):
                record.update(validation_loss=loss, best_step=self.steps, misses=0)
                for best, now in ((self.best.a, table.a), (self.best.b, table.b)):
                    for key, tensor in now.items():
                        best[key][row] = tensor[row]
            else:
                record["misses"] += 1
        self._stop([row for row in rows if self.records[row]["misses"] >= self.config.patience], "patience")

    def _stop(self, rows: Sequence[int], reason: str) -> None:
        for row in rows:
            self.records[row]["stopped"] = reason
        self.active = [row for row in self.active if row not in set(rows)]

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16)

    # The state of a killed run

    def save(self, path: Path) -> None:
        """Writes all that the rest of the run depends on, whole or not at all."""
        state = {
            "names": [task.name for task in self.tasks],
            "settings": self.config.settings(),
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
        state = read_state(path, ("names", "settings"), device=self.device)
        if state is None:
            return
        names, settings = list(state["names"]), state["settings"]
        if all(name in library for name in names):  # killed after the chunk was stored
            return
        if names != [task.name for task in self.tasks] or settings != self.config.settings():
            raise T2LError(
                f"The training state '{path}' is of a run with other tasks or settings.",
                f"Use the same tasks, in the same order, and the same settings; or: {afresh(path)}",
            )
        try:
            self._load(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as problem:  # as torch reports another structure
            raise T2LError(
                f"The training state '{path}' is not of these adapters: {problem}", afresh(path)
            ) from problem

    def _load(self, state: Mapping[str, Any]) -> None:
        best = LoraWeights(dict(state["best"]["a"]), dict(state["best"]["b"]))
        best.check(self.spec)
        self.table.load_state_dict(state["table"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.records, self.active = best, list(state["records"]), list(state["active"])
        self.steps, self.fresh = int(state["steps"]), False
