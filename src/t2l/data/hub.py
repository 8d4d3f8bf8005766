"""Tasks from data sets of the hub, through `datasets`: temporary failures are retried, and no data set delays another.

Level 3. A data set of `Lots-of-LoRAs` is one task of Super-Natural-Instructions: rows of ``input`` (definition,
examples and the input in one text) and ``output``. Rows with ``prompt`` and ``response`` are read as well. What was
fetched once is in the cache of `datasets` and is not fetched again.
"""

from __future__ import annotations

import email.utils
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any

from t2l.data.sources import Instance, Task, TaskSource, instance_of
from t2l.errors import DataError

ORGANISATION = "Lots-of-LoRAs"
PREFIX = "hub:"
"""What the name of a data set or an organisation begins with where sources are given."""

_LONGEST_WAIT = 300.0  # seconds
_SIZE = 1 << 20  # bytes of a data set, for the time left: nobody knows before it is fetched
_MARK = re.compile(r"\nNow complete the following example\s*-\s*\nInput:\s*")
_EXAMPLES = re.compile(r"\n+\s*(?:Positive|Negative) Example \d+\s*-")
_OFFLINE = "The hub is switched off here (HF_HUB_OFFLINE or HF_DATASETS_OFFLINE)"


class Hub:
    """Fetches data sets.

    Args:
        load: name -> rows; by default `datasets.load_dataset` on the split ``train``.
        attempts: of each data set.
        first_wait: seconds after the first failure; each further wait is twice as long.
        sleep: waits.
        note: is told of each failure that will be tried again.
    """

    def __init__(
        self,
        load: Callable[[str], Iterable[Mapping[str, Any]]] | None = None,
        *,
        attempts: int = 5,
        first_wait: float = 2.0,
        sleep: Callable[[float], None] = time.sleep,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self._load = load or load_rows
        self._attempts, self._first_wait = attempts, first_wait
        self._sleep, self._note = sleep, note or (lambda text: None)
        self._lost = 0  # data sets in a row that could not be reached

    def source(self, name: str) -> TaskSource:
        """A data set as a task of the same name, without its organisation."""
        task = name.rpartition("/")[2]
        return TaskSource(
            name=task,
            place=f"{PREFIX}{name}",
            size=_SIZE,
            digest=lambda: sha256(name.encode()).hexdigest(),
            read=lambda: self._task(name, task),
        )

    def _task(self, name: str, task: str) -> Task:
        rows = self._fetch(name)
        instances, definition, dropped = [], "", {}
        for row in rows:
            found = parse_row(row)
            if isinstance(found, str):
                dropped[found] = dropped.get(found, 0) + 1
                continue
            own, instance = found
            definition = definition or own
            instances.append(instance)
        if not instances:
            reasons = "; ".join(f"{number} {reason}" for reason, number in dropped.items()) or "no rows"
            raise DataError(f"'{name}' has no row with an input and an output: {reasons}.")
        licence, revision = _facts(rows)
        return Task(
            task,
            definition,
            tuple(instances),
            licences=(licence,) if licence else (),
            dropped=dropped,
            revision=revision,
        )

    def _fetch(self, name: str) -> Iterable[Mapping[str, Any]]:
        """The rows of a data set; temporary failures are retried.

        Raises:
            DataError: it cannot be fetched.
        """
        # where nothing could be reached lately, waiting for each of hundreds would take hours
        attempts = 1 if self._lost >= 3 else self._attempts
        for attempt in range(1, attempts + 1):
            try:
                rows = self._load(name)
            except DataError:
                raise
            except Exception as problem:  # the hub, the network, the cache and the readers each raise their own kinds
                reason = (str(problem).strip().splitlines() or [""])[0] or type(problem).__name__
                if _is_offline(problem):
                    raise DataError(f"{_OFFLINE}, and '{name}' is not in the cache of datasets.") from problem
                if not _may_pass(problem):
                    raise DataError(f"'{name}' cannot be read from the hub: {reason}") from problem
                if attempt == attempts:
                    self._lost += 1
                    raise DataError(f"'{name}' could not be fetched in {attempts} attempts: {reason}") from problem
                wait = _retry_after(problem) or self._first_wait * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
                self._note(f"'{name}': {reason} Trying again in {wait:.0f} s ({attempt} of {attempts}).")
                self._sleep(wait)
            else:
                self._lost = 0
                return rows
        raise AssertionError("the last attempt returns or raises")


def hub_names(place: str, described: Iterable[str | None]) -> list[str]:
    """The data sets that ``hub:...`` names: one, or all of an organisation.

    An organisation's are those that the descriptions name (``hub_dataset``); where they name none, the hub is asked.

    Raises:
        DataError: the hub cannot be asked, or has none.
    """
    name = place.removeprefix(PREFIX).strip("/")
    if not name:
        raise DataError("'hub:' names nothing.", f"Write hub:{ORGANISATION}, or hub:ORGANISATION/DATASET.")
    if "/" in name:
        return [name]
    named = sorted({given for given in described if given and given.startswith(f"{name}/")})
    if named:
        return named
    if _switched_off():
        raise DataError(
            f"{_OFFLINE}, so the data sets of '{name}' cannot be listed.",
            "Give --descriptions that name them, or local data.",
        )
    try:
        from huggingface_hub import HfApi

        found = sorted(info.id for info in HfApi().list_datasets(author=name))
    except Exception as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise DataError(
            f"The hub cannot be asked for the data sets of '{name}': {reason}",
            "Try again, or give --descriptions that name them.",
        ) from problem
    if not found:
        raise DataError(f"The hub has no data set of '{name}'.")
    return found


def parse_row(row: Mapping[str, Any]) -> tuple[str, Instance] | str:
    """(definition, instance) of a row, or the reason why there is none.

    The ``input`` of `Lots-of-LoRAs` holds the definition, examples and the input proper; they are taken apart, so that
    a prompt may withhold the definition. A text without these marks is the input itself.
    """
    asked, said = row.get("input", row.get("prompt")), row.get("output", row.get("response"))
    instance = instance_of(asked, said)
    if isinstance(instance, str):
        return instance
    asked = instance.input
    definition = row.get("definition") if isinstance(row.get("definition"), str) else ""
    marks = list(_MARK.finditer(asked))
    if marks and asked.lstrip().startswith("Definition:"):
        last = marks[-1]
        head = asked[: last.start()].lstrip().removeprefix("Definition:")
        first = _EXAMPLES.search(head)
        definition = (head[: first.start()] if first else head).strip()
        asked = re.sub(r"\s*\n\s*Output:\s*$", "", asked[last.end() :])
    return definition or "", Instance(asked, instance.outputs)


def load_rows(name: str, config: str | None = None, split: str = "train") -> Iterable[Mapping[str, Any]]:
    """The rows of one split of a data set, from the hub or from the cache of `datasets`.

    Raises:
        DataError: `datasets` is not installed; what the hub raises is its own.
    """
    try:
        import datasets
    except ImportError as problem:
        raise DataError("The hub requires the package datasets.", "Install it: pip install 't2l[data]'") from problem
    datasets.disable_progress_bars()
    rows: Any = datasets.load_dataset(name, config, split=split)
    return rows


def _facts(rows: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """Licence and commit of a data set, where they are known."""
    info = getattr(rows, "info", None)
    licence = getattr(info, "license", None) or ""
    files = getattr(info, "download_checksums", None) or {}
    commits = sorted({match[1] for file in files if (match := re.search(r"@([0-9a-f]{40})/", str(file)))})
    return str(licence), commits[0] if commits else ""


def _switched_off() -> bool:
    return any(
        os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    )


def _chain(problem: BaseException) -> Iterable[BaseException]:
    seen: BaseException | None = problem
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _is_offline(problem: Exception) -> bool:
    return any("OfflineMode" in type(link).__name__ or "OfflineMode" in str(link) for link in _chain(problem))


def _status(problem: BaseException) -> int | None:
    status = getattr(getattr(problem, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _may_pass(problem: Exception) -> bool:
    """Whether it is worth trying again: the network, or a server that is busy; not a name that does not exist."""
    for link in _chain(problem):
        status = _status(link)
        if status is not None:
            return status in (408, 425, 429) or status >= 500
        if "NotFound" in type(link).__name__ and "Entry" not in type(link).__name__:
            return False
    return any(isinstance(link, OSError | TimeoutError) or "Timeout" in type(link).__name__ for link in _chain(problem))


def _retry_after(problem: Exception) -> float | None:
    """Seconds that the server asks to wait: a number or a date (RFC 9110, section 10.2.3)."""
    for link in _chain(problem):
        value: Any = getattr(getattr(link, "response", None), "headers", {}).get("Retry-After")
        with suppress(TypeError, ValueError):
            return min(max(0.0, float(value)), _LONGEST_WAIT)
        with suppress(TypeError, ValueError):
            return min(max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time()), _LONGEST_WAIT)
    return None
