"""Forward passes of one base for many requests at once, each with its own adapter or none, over one cache of slots.

Axis letters: S slots (or rows of one pass), T tokens of a pass, C columns, V tokens of the vocabulary.

Level 5. A pass always has one of a few shapes: decoding (a number of rows, 1), reading prompts (2 or 4 rows, T), where
T depends on the request's own prompt alone. Rows without a request compute padding, and rows come in such numbers that
matrix libraries treat all alike: where the start, or the first pass of its width, shows that they do not, each of the
two has one shape. So the arithmetic of a row, and with it every bit of its logits, does not depend on who sits in the
other rows. This file knows neither waiting requests nor sampling nor text.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2l.bases import Base
from t2l.batched import BatchedLora
from t2l.errors import BaseModelError
from t2l.lora import LoraSpec, LoraWeights
from t2l.threads import SMALL, threads

MAX_PIECE = 256
_MIN_PIECE = 16
_MIN_COLUMNS = 64
_PREFILL_ROWS = 4
_FEW_PREFILL_ROWS = 2  # for one or two prompts; a single row is a product of another kind
_ROWS = 4  # decoding has 4, 8, 16, ... rows: odd ones at the end of a product are computed in another order
_SERVED_LAYERS = {"full_attention", "sliding_attention"}
_GROWING_ROPE = {"dynamic", "longrope"}  # their angles depend on the longest request of a batch
_TOLERANCE = {torch.float32: 2e-3}
_HALF_TOLERANCE = 0.06


@dataclass(frozen=True)
class Piece:
    """A stretch of one request's prompt: ``tokens`` from position ``start`` on, at most `MAX_PIECE` of them."""

    slot: int
    tokens: Sequence[int]
    start: int

    @property
    def width(self) -> int:
        """T of the pass that reads it: the least of 16, 32, 64, ... that holds it."""
        return _step(len(self.tokens), _MIN_PIECE)


class Passes:
    """The base with its cache and the adapters of the slots.

    `exact` says whether, as tried at the start, the place of a request changes no bit of its logits here. That is a
    matter of the matrix library; eager attention may not keep it, nor ``sdpa`` in several threads, so
    the attention of `t2l.serving.slot_cache` is switched on where the base lets it be.

    Args:
        base: frozen; nobody else may run it at the same time.
        spec: of the adapters that slots may be given.
        slots: S, how many requests are decoded together.
        context: C, the most tokens of a request, its answer included; the base's own window bounds it.

    Raises:
        BaseModelError: the base lacks modules of ``spec``, or cannot share passes (layers other than full and
            sliding attention, or logits that differ from those of a plain forward pass).
    """

    def __init__(self, base: Base, spec: LoraSpec, *, slots: int, context: int) -> None:
        from t2l.serving.slot_cache import ALIGNED, ATTENTION, SlotCache

        self.model = base.model
        if getattr(self.model.config, "_attn_implementation", None) in ("eager", "sdpa"):
            with suppress(ValueError, ImportError):  # a base that has nothing else
                self.model.set_attn_implementation(ATTENTION)
        self.slots = slots
        self.prefill_rows = _PREFILL_ROWS
        self._alike: dict[tuple[int, bool], bool] = {}  # width, adapted -> whether few rows give the bits of all
        self._rows = _step(slots, _ROWS)
        config = self.model.config.get_text_config()
        self.context = min(context, _window(config))
        self._kinds, self._sliding = _attention_kinds(config, base.name)
        columns = (self.context // ALIGNED + 1) * ALIGNED  # at least one more than the context, for padding
        self._cache = SlotCache(config.num_hidden_layers, self._rows, columns)
        self._spec = spec
        self._bank = LoraWeights.zeros(spec, self._rows + 1, device=self.model.device, dtype=self.model.dtype)
        self._adapted: set[int] = set()
        self._shapes = [rows for rows in (_ROWS << n for n in range(32)) if rows <= self._rows]
        self._decode_lora = {
            rows: BatchedLora(self.model, spec, self._bank.select(slice(0, rows))) for rows in self._shapes
        }
        self._keeps = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        self._all_columns = False
        small = self.model.device.type == "cpu" and sum(part.numel() for part in self.model.parameters()) < SMALL
        self._threads = 1 if small else None
        self.exact = True
        self._prove(base.name)

    @property
    def bytes_reserved(self) -> int:
        """Of the cache and of the slots' adapters."""
        tensors = self._cache.tensors()
        tensors += self._bank.tensors
        return sum(tensor.nbytes for tensor in tensors)

    @torch.inference_mode()
    def load(self, slot: int, weights: LoraWeights | None, strength: float = 1.0) -> None:
        """Prepares a slot for a new request: empty, and with the request's adapter, ``strength`` in B, or with none."""
        self._cache.clear(slot)
        sides = ((self._bank.a, weights and weights.a, 1.0), (self._bank.b, weights and weights.b, strength))
        for bank, own, factor in sides:
            for key, tensor in bank.items():
                if own:
                    tensor[slot].copy_(own[key][0] if factor == 1.0 else own[key][0] * factor)
                elif slot in self._adapted:
                    tensor[slot].zero_()
        self._adapted.discard(slot) if weights is None else self._adapted.add(slot)

    @torch.inference_mode()
    def prefill(self, pieces: Sequence[Piece]) -> Tensor:
        """Reads up to ``prefill_rows`` pieces of one width; logits after the last token of each, (len(pieces), V)."""
        width = pieces[0].width
        assert len(pieces) <= self.prefill_rows and all(piece.width == width for piece in pieces)
        # on other devices a few rows more cost nothing, and each number of rows has its own kernel
        if len(pieces) > _FEW_PREFILL_ROWS or self.model.device.type != "cpu":
            return self._read(pieces, self.prefill_rows)
        shape = width, bool(self._adapted & {piece.slot for piece in pieces})
        if shape not in self._alike:
            few = self._read(pieces, _FEW_PREFILL_ROWS)
            whole = self._read(pieces, self.prefill_rows)
            self._alike[shape] = torch.equal(few, whole)
            return whole
        return self._read(pieces, _FEW_PREFILL_ROWS if self._alike[shape] else self.prefill_rows)

    def _read(self, pieces: Sequence[Piece], count: int) -> Tensor:
        """As `prefill`, in a pass of so many rows."""
        width, device = pieces[0].width, self.model.device
        rows = [piece.slot for piece in pieces] + [self._rows] * (count - len(pieces))
        tokens, positions, columns, lasts = [], [], [], []
        for row in range(count):
            own, start = (list(pieces[row].tokens), pieces[row].start) if row < len(pieces) else ([], 0)
            padding = width - len(own)
            tokens.append(own + [0] * padding)
            positions.append([min(start + t, self.context - 1) for t in range(width)])
            columns.append([start + t for t in range(len(own))] + [self._cache.places.columns - 1] * padding)
            lasts.append(max(0, len(own) - 1))
        lora = None
        if self._adapted & set(rows):
            lora = BatchedLora(self.model, self._spec, self._bank, rows)
        end = max(piece.start + len(piece.tokens) for piece in pieces)
        last_S = torch.tensor(lasts, device=device)
        logits_SV = self._run(tokens, positions, columns, torch.tensor(rows, device=device), end, lora, last_S)
        return logits_SV[: len(pieces)]

    @torch.inference_mode()
    def decode(self, steps: Mapping[int, tuple[int, int]]) -> Tensor:
        """One more token for each slot of ``steps`` (slot -> token, position); logits by slot, those of others void."""
        rows = next(shape for shape in self._shapes if shape > max(steps))
        tokens = [[steps[slot][0] if slot in steps else 0] for slot in range(rows)]
        positions = [[steps[slot][1] if slot in steps else 0] for slot in range(rows)]
        columns = [[steps[slot][1] if slot in steps else self._cache.places.columns - 1] for slot in range(rows)]
        lora = self._decode_lora[rows] if self._adapted & set(steps) else None
        end = 1 + max(position for _, position in steps.values())
        return self._run(tokens, positions, columns, None, end, lora, None)

    def _run(
        self,
        tokens: list[list[int]],
        positions: list[list[int]],
        columns: list[list[int]],
        rows_S: Tensor | None,
        end: int,
        lora: BatchedLora | None,
        last_S: Tensor | None,
    ) -> Tensor:
        device = self.model.device
        places = self._cache.places
        places.rows_S = rows_S
        places.columns_ST = torch.tensor(columns, device=device)
        places.visible = places.columns if self._all_columns else min(_step(end, _MIN_COLUMNS), places.columns)
        position_ST = torch.tensor(positions, device=device)
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(tokens, device=device),
            "attention_mask": self._masks(position_ST, places.visible),
            "position_ids": position_ST,
            "past_key_values": self._cache,
            "use_cache": True,
        }
        if self._keeps:  # the vocabulary is the widest of all products, and one position a row is enough
            inputs["logits_to_keep"] = 1 if last_S is None else last_S
        with threads(self._threads), lora or nullcontext():
            logits_STV = self.model(**inputs).logits
        if last_S is None:
            return logits_STV[:, -1]
        each_S = torch.arange(len(tokens), device=device)
        return logits_STV[each_S, each_S if self._keeps else last_S]

    def _masks(self, position_ST: Tensor, visible: int) -> Tensor | dict[str, Tensor]:
        """Additive (S, 1, T, C): zero where a token may look, the lowest number of the dtype elsewhere."""
        column_C = torch.arange(visible, device=position_ST.device)
        seen_STC = column_C <= position_ST[..., None]
        masks = {}
        for kind in self._kinds:
            allowed_STC = seen_STC
            if kind == "sliding_attention":
                allowed_STC = seen_STC & (column_C > position_ST[..., None] - self._sliding)
            lowest = torch.finfo(self.model.dtype).min
            mask = torch.full(allowed_STC.shape, lowest, dtype=self.model.dtype, device=position_ST.device)
            masks[kind] = mask.masked_fill_(allowed_STC, 0)[:, None]
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _prove(self, name: str) -> None:
        """Compares with a plain forward pass of the base, and tries whether a request's place changes a bit here.

        Raises:
            BaseModelError: the logits differ by more than rounding.
        """
        generator = torch.Generator().manual_seed(0)
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        length = min(12, self.context)
        prompt = torch.randint(min(4, vocabulary - 1), vocabulary, (length,), generator=generator).tolist()

        def logits(slots: list[int]) -> Tensor:
            """(slots, 2, V) after the last two tokens, the same prompt in each of the slots."""
            pieces = [Piece(slot, prompt[:-1], 0) for slot in slots]
            for slot in slots:
                self.load(slot, None)
            firsts = [self.prefill(pieces[n : n + self.prefill_rows]) for n in range(0, len(slots), self.prefill_rows)]
            last_SV = self.decode(dict.fromkeys(slots, (prompt[-1], length - 1)))[slots]
            return torch.stack([torch.cat(firsts), last_SV], dim=1)

        alone = logits([0])
        self._all_columns = True
        self._all_columns = not torch.equal(alone, logits([0]))
        lasts = [logits([min(shape, self.slots) - 1]) for shape in self._shapes]  # one in each shape
        if not all(torch.equal(one, lasts[0]) for one in lasts):
            self._shapes = self._shapes[-1:]
        together = logits(list(range(self.slots)))
        self.exact = torch.equal(together, logits([0]).expand_as(together))
        alone = alone[0]
        with torch.inference_mode():
            ids = torch.tensor([prompt], device=self.model.device)
            plain = self.model(input_ids=ids, use_cache=False).logits[0, -2:]
        difference = float((alone.float() - plain.float()).abs().max())
        allowed = _TOLERANCE.get(self.model.dtype, _HALF_TOLERANCE) * max(1.0, float(plain.float().abs().max()))
        if not difference <= allowed:
            raise BaseModelError(
                f"'{name}' ({self.model.config.model_type}) cannot be served: in shared passes its logits differ from "
                f"its own by {difference:.2g} (at most {allowed:.2g} is rounding).",
                "Models whose attention reads more than a 4D mask and position ids are not served.",
            )


def _attention_kinds(config: Any, name: str) -> tuple[list[str], int]:
    """The kinds of attention among the layers, and the sliding window."""
    sliding = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    kinds = sorted(set(layers)) if layers else ["sliding_attention" if sliding else "full_attention"]
    if others := sorted(set(kinds) - _SERVED_LAYERS):
        raise BaseModelError(
            f"'{name}' has layers of the kind {', '.join(others)}; full and sliding attention are served."
        )
    return kinds, int(sliding or 0)


def _window(config: Any) -> int:
    """The most positions at which the base computes alike whoever else is in the batch."""
    window = getattr(config, "max_position_embeddings", None) or 1 << 30
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if str(rope.get("rope_type", rope.get("type"))) in _GROWING_ROPE:
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        window = min(window, original or window)
    return int(window)


def _step(size: int, least: int) -> int:
    """The least of ``least``, 2 ``least``, 4 ``least``, ... that is not below ``size``."""
    while least < size:
        least *= 2
    return least
