"""Which request computes when: prompts are read and tokens decoded in turns, and every slot is filled again at once.

Level 5. `Scheduler.step` runs one forward pass; it is called by one thread and starts none. This file does not know
where adapters come from nor who waits for an answer.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from torch import Tensor

from t2l.lora import LoraWeights
from t2l.serving.errors import OutOfTimeError, RequestError, StoppedError
from t2l.serving.passes import MAX_PIECE, Passes, Piece
from t2l.serving.sampling import Picker, Sampling, is_usable
from t2l.serving.stream import Completion, FinishReason, Stream, Writer

_READ_IN_A_ROW = MAX_PIECE  # tokens of each prompt; then those who are decoding get a turn


@dataclass(eq=False)
class DecodingJob:
    """One request while it is served.

    Args:
        prompt: its tokens.
        max_tokens: how many may follow.
        weights: its adapter, N = 1; None for the plain base.
        deadline: on `time.monotonic`'s clock.
        strength: multiplies what the adapter changes.
    """

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    weights: LoraWeights | None
    deadline: float
    strength: float = 1.0
    stream: Stream = field(default_factory=Stream)
    begun: float = field(default_factory=time.monotonic)


class _Slot:
    """A job in its slot."""

    def __init__(self, job: DecodingJob, decode: Callable[[list[int]], str]) -> None:
        self.job = job
        self.read = 0  # tokens of the prompt
        self.tokens: list[int] = []
        self.picker = Picker(job.sampling)
        self.writer = Writer(decode, job.sampling.stop)
        self.texts: list[str] = []
        self.first_token_s = 0.0

    @property
    def reading(self) -> bool:
        return self.read < len(self.job.prompt)

    def piece(self, slot: int) -> Piece:
        return Piece(slot, self.job.prompt[self.read : self.read + MAX_PIECE], self.read)

    def write(self, text: str) -> None:
        if text:
            self.texts.append(text)
            self.job.stream.write(text)


@dataclass
class Counts:
    """What has been done since the start."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prefill_passes: int = 0
    decode_passes: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class Scheduler:
    """Serves jobs through `Passes`, first come, first served.

    Args:
        ends: the tokens that end an answer.
        decode: tokens -> text.
        clock: `time.monotonic`; tests have their own.
    """

    def __init__(
        self,
        passes: Passes,
        *,
        ends: Collection[int],
        decode: Callable[[list[int]], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.passes = passes
        self.counts = Counts()
        self._ends = frozenset(ends)
        self._decode = decode
        self._clock = clock
        self._waiting: deque[DecodingJob] = deque()
        self._slots: dict[int, _Slot] = {}
        self._free = list(range(passes.slots))  # a heap: low slots first, so that passes stay small
        self._read_in_a_row = 0

    @property
    def waiting(self) -> int:
        """Jobs without a slot."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Jobs in a slot."""
        return len(self._slots)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._slots

    def add(self, job: DecodingJob) -> None:
        """Queues a job."""
        self._waiting.append(job)

    def step(self) -> None:
        """Drops who has left or is out of time, gives free slots away, and runs one pass, if any is needed."""
        self._drop()
        while self._free and self._waiting:
            self._admit(self._waiting.popleft())
        reading = [slot for slot, state in self._slots.items() if state.reading]
        decoding = [slot for slot, state in self._slots.items() if not state.reading]
        if reading and not (decoding and self._read_in_a_row >= _READ_IN_A_ROW):
            self._prefill(reading)
        elif decoding:
            self._read_in_a_row = 0
            self._decode_pass(decoding)

    def fail_active(self, error: Exception) -> None:
        """Ends the jobs that are in slots with ``error``."""
        for slot, state in list(self._slots.items()):
            self.counts.failed += 1
            state.job.stream.fail(error)
            self._release(slot)

    def stop(self) -> None:
        """Ends every job, because the server stops."""
        error = StoppedError("The server is shutting down.")
        for job in self._waiting:
            job.stream.fail(error)
        self._waiting.clear()
        self.fail_active(error)

    def _admit(self, job: DecodingJob) -> None:
        slot = heapq.heappop(self._free)
        self.passes.load(slot, job.weights, job.strength)
        self._slots[slot] = _Slot(job, self._decode)

    def _release(self, slot: int) -> None:
        del self._slots[slot]
        heapq.heappush(self._free, slot)

    def _drop(self) -> None:
        now = self._clock()
        self._waiting = deque(job for job in self._waiting if not self._gone(job, now))
        for slot in [slot for slot, state in self._slots.items() if self._gone(state.job, now)]:
            self._release(slot)

    def _gone(self, job: DecodingJob, now: float) -> bool:
        if job.stream.cancelled:
            self.counts.cancelled += 1
            job.stream.fail(StoppedError("The request was cancelled."))
        elif now > job.deadline:
            self.counts.failed += 1
            allowed = job.deadline - job.begun
            job.stream.fail(
                OutOfTimeError(
                    f"The answer was not done within {allowed:.0f} s.", "Ask for fewer tokens, or try again later."
                )
            )
        else:
            return False
        return True

    def _prefill(self, reading: list[int]) -> None:
        pieces = [self._slots[slot].piece(slot) for slot in reading]
        pieces = [piece for piece in pieces if piece.width == pieces[0].width][: self.passes.prefill_rows]
        logits_SV = self.passes.prefill(pieces)
        self._read_in_a_row += pieces[0].width
        self.counts.prefill_passes += 1
        done: dict[int, int] = {}  # slot -> row of the logits
        for row, piece in enumerate(pieces):
            state = self._slots[piece.slot]
            state.read += len(piece.tokens)
            self.counts.prompt_tokens += len(piece.tokens)
            if not state.reading:
                done[piece.slot] = row
        if done:
            self._take(list(done), logits_SV[list(done.values())])

    def _decode_pass(self, decoding: list[int]) -> None:
        steps = {}
        for slot in decoding:
            state = self._slots[slot]
            steps[slot] = (state.tokens[-1], len(state.job.prompt) + len(state.tokens) - 1)
        logits_SV = self.passes.decode(steps)
        self.counts.decode_passes += 1
        self._take(decoding, logits_SV[decoding])

    def _take(self, slots: list[int], logits_SV: Tensor) -> None:
        """Picks the next token of each slot and ends those that are done."""
        likeliest = logits_SV.argmax(-1).tolist()
        for row, (slot, usable) in enumerate(zip(slots, is_usable(logits_SV), strict=True)):
            state = self._slots[slot]
            if not usable:
                self.counts.failed += 1
                state.job.stream.fail(RequestError("The model gave no finite logits under this adapter."))
                self._release(slot)
                continue
            token = likeliest[row] if state.picker.greedy else state.picker.pick(logits_SV[row])
            self._append(slot, state, token)

    def _append(self, slot: int, state: _Slot, token: int) -> None:
        if not state.tokens:
            state.first_token_s = self._clock() - state.job.begun
        self.counts.completion_tokens += 1
        reason: FinishReason | None = None
        state.tokens.append(token)
        if token in self._ends:
            reason = "stop"
        else:
            state.write(state.writer.add(token))
            if state.writer.stopped:
                reason = "stop"
            elif len(state.tokens) >= state.job.max_tokens:
                reason = "length"
        if reason is None:
            return
        state.write(state.writer.end())
        if state.writer.stopped:  # a stop text that only the end made certain
            reason = "stop"
        ended = token in self._ends
        self.counts.finished += 1
        state.job.stream.finish(
            Completion(
                text="".join(state.texts),
                tokens=tuple(state.tokens[:-1] if ended else state.tokens),
                finish_reason=reason,
                prompt_tokens=len(state.job.prompt),
                completion_tokens=len(state.tokens),
                first_token_s=state.first_token_s,
                total_s=self._clock() - state.job.begun,
            )
        )
        self._release(slot)
