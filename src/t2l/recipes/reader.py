"""Recipes: all that one training run is made of, as a file of the differences from the defaults.

Level 3. A recipe is a YAML file of sections; it may begin from another (``like: NAME``), and the command line changes
single values (``loop.steps=500``). Every key and every type is checked against the dataclasses below, so a misspelt
key is an error that names the nearest right one. This file knows settings; it loads no model and reads no data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from t2l.errors import RecipeError, did_you_mean
from t2l.recipes.sections import (
    BaseSection,
    ConditionSection,
    DataSection,
    HardwareSection,
    HypernetworkSection,
    LibrarySection,
    LoopSection,
    LoraSection,
    LossSection,
    OptimizerSection,
    ReconSection,
    ValidationSection,
)
from t2l.storage import MOST_FOREIGN, parse_yaml, read_text

_LIKE = "like"
_FORMER = {
    "loop.batch": "loop.tasks (tasks a step) and loop.samples (of each)",
    "loop.micro_batch": "loop.micro_tokens (tokens that go through the base together)",
    "data.samples_per_task": "loop.samples",
}


_BOUNDS: dict[str, tuple[Callable[[float], bool], str]] = {
    "at least 1": (
        lambda value: value >= 1,
        "loop.steps loop.tasks loop.samples loop.micro_tokens loop.parts loop.save_every loop.keep loop.log_every "
        "loop.patience library.steps library.samples library.validation library.check_every library.patience "
        "library.together library.pass_tokens recon.steps recon.tasks loss.views",
    ),
    "at least 2": (lambda value: value >= 2, "data.max_length"),
    "above 0": (lambda value: value > 0, "loop.clip recon.learning_rate recon.delta_scale"),
    "above 1": (lambda value: value > 1, "loop.spike"),
    "at least 0": (lambda value: value >= 0, "loop.micro_overhead loss.neftune condition.noise recon.noise"),
    "a fraction, from 0 to 1": (
        lambda value: 0 <= value <= 1,
        "loop.warmup loop.decay library.warmup library.decay recon.warmup recon.decay recon.held_out loss.distill "
        "loss.crossed hardware.utilization",
    ),
    "at least 0 and below 1": (
        lambda value: 0 <= value < 1,
        "loss.label_smoothing lora.dropout hypernetwork.dropout loop.ema",
    ),
}
"""What a number must be, and which keys hold such."""


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        encoder: the config of a description encoder, ``kind`` and what that kind reads.
    """

    about: str = ""
    base: BaseSection = field(default_factory=BaseSection)
    encoder: dict[str, Any] = field(default_factory=lambda: {"kind": "minilm"})
    lora: LoraSection = field(default_factory=LoraSection)
    hypernetwork: HypernetworkSection = field(default_factory=HypernetworkSection)
    data: DataSection = field(default_factory=DataSection)
    condition: ConditionSection = field(default_factory=ConditionSection)
    loss: LossSection = field(default_factory=LossSection)
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    loop: LoopSection = field(default_factory=LoopSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    library: LibrarySection = field(default_factory=LibrarySection)
    recon: ReconSection = field(default_factory=ReconSection)
    hardware: HardwareSection = field(default_factory=HardwareSection)

    def __post_init__(self) -> None:
        loop, loss, flat = self.loop, self.loss, self.flat()
        for rule, (allowed, names) in _BOUNDS.items():
            for name in names.split():
                if not allowed(flat[name]):
                    raise RecipeError(f"{name} is {flat[name]}; it must be {rule}.")
        if loss.contrast and loss.views < 2:
            raise RecipeError("loss.contrast compares descriptions of one task; it needs loss.views=2.")
        if loss.crossed and loss.teacher is None:
            raise RecipeError(
                "loss.crossed pairs inputs with descriptions of other tasks, to which only a teacher knows an answer.",
                "Name one that reads descriptions: loss.teacher=FOLDER, or set loss.crossed=0.",
            )
        if loss.teacher is not None and not (loss.distill or loss.crossed):
            raise RecipeError(
                "loss.teacher has no effect without loss.distill or loss.crossed.", "Such as: loss.distill=0.5"
            )
        if loop.samples % loss.views:
            raise RecipeError(
                f"loop.samples={loop.samples} samples of a task cannot be shared out to "
                f"loss.views={loss.views} descriptions."
            )
        if self.base.quantization != "none" and self.base.shard:
            raise RecipeError(
                "base.shard and base.quantization exclude each other: quantised weights are not spread over processes.",
                "Each process holds a 4-bit base whole; set base.shard=false.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values by section, as `recipe_from` reads them."""
        return _plain(self)

    def flat(self) -> dict[str, Any]:
        """Dotted key -> value: what two recipes are compared by."""
        return dict(_flat("", self.to_dict()))

    def to_yaml(self) -> str:
        """The whole recipe as YAML, defaults included."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True, width=110)


def recipe_from(values: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """A recipe from nested plain values.

    Raises:
        RecipeError: an unknown key, a value of another type, or settings that exclude each other.
    """
    return _build(Recipe, values, "", source)


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a name that ships with t2l, or of a file, with ``key=value`` changes.

    Example:
        >>> load_recipe("smollm2-135m-cpu", ["loop.steps=10"]).loop.steps
        10

    Raises:
        RecipeError: there is no such recipe, it is no YAML, or a key or a value is not right.
    """
    values = _read(str(name), ())
    for text in overrides:
        _override(values, text)
    return recipe_from(values, source=str(name))


def recipe_names() -> list[str]:
    """The recipes that ship with t2l."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The file of a recipe that ships with t2l, comments and all.

    Raises:
        RecipeError: there is no such recipe; near names are offered.
    """
    if name not in recipe_names():
        raise RecipeError(f"There is no recipe '{name}'.", did_you_mean(name, recipe_names()))
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8")


def recipe_differences(old: Recipe, new: Recipe) -> list[str]:
    """A line ``key: old -> new`` for every value in which two recipes differ."""
    before, after = old.flat(), new.flat()
    keys = [*before, *(key for key in after if key not in before)]
    return [f"{k}: {before.get(k)!r} -> {after.get(k)!r}" for k in keys if before.get(k) != after.get(k)]


def _folder() -> Path:
    return Path(str(resources.files("t2l"))) / "recipes"


def _read(name: str, trail: tuple[str, ...]) -> dict[str, Any]:
    """The nested values of a recipe, those of the one that it begins from below them."""
    if name in trail:
        raise RecipeError(f"The recipe '{name}' begins from itself: {' -> '.join([*trail, name])}.")
    path = Path(name).expanduser()
    in_file = path.suffix in (".yaml", ".yml")
    text = read_text(path, RecipeError, most=MOST_FOREIGN) if in_file else recipe_text(name)
    values = parse_yaml(text, f"The recipe '{name}'", RecipeError) or {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RecipeError(f"The recipe '{name}' holds {type(values).__name__}, not sections.")
    parent = values.pop(_LIKE, None)
    if parent is None:
        return values
    beside = path.with_name(f"{parent}.yaml")
    found = str(beside) if path.suffix in (".yaml", ".yml") and beside.is_file() else str(parent)
    return _merged(_read(found, (*trail, name)), values)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of ``below`` with the values of ``above``; an encoder of another kind replaces the whole one."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        other_kind = key == "encoder" and isinstance(value, Mapping) and "kind" in value
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not other_kind:
            value = _merged(old, value)
        merged[key] = value
    return merged


def _override(values: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise RecipeError(f"'{text}' is not key=value.", "Such as: loop.steps=500")
    _check_key(path)
    read = parse_yaml(value, f"The value of '{text}'", RecipeError)
    here = values
    for part in path[:-1]:
        section = here.get(part)
        here[part] = dict(section) if isinstance(section, Mapping) else {}
        here = here[part]
    if path == ["encoder", "kind"] and here.get("kind") != read:
        here.clear()
    here[path[-1]] = read


def _check_key(path: Sequence[str]) -> None:
    known = _known_keys()
    key = ".".join(path)
    if key in known or (path[0] == "encoder" and len(path) == 2) or path[:2] == ["data", "mixture"]:
        return
    if any(name.startswith(f"{key}.") for name in known):
        raise RecipeError(f"'{key}' is a section.", f"Say which value: {key}.NAME=VALUE")
    if key in _FORMER:
        raise RecipeError(f"'{key}' is now {_FORMER[key]}.", "See t2l recipes show NAME --full")
    same_end = [name for name in known if name.rpartition(".")[2] == path[-1]]
    raise RecipeError(f"No recipe has a key '{key}'.", did_you_mean(same_end[0] if same_end else key, known))


@cache
def _known_keys() -> tuple[str, ...]:
    keys = [key for key in Recipe().flat() if not key.startswith("encoder.")]
    return (*keys, "encoder.kind")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _build(kind: Any, values: Any, where: str, source: str) -> Any:
    if not isinstance(values, Mapping):
        raise RecipeError(f"In '{source}', '{where}' is {values!r}, not a section.")
    hints = _hints(kind)
    known = {item.name for item in fields(kind)}
    given = {}
    for key, value in values.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in known:
            _check_key(name.split("."))  # raises, with the nearest name
            raise RecipeError(f"'{source}' has a key '{name}', which no recipe has.")
        hint = hints[key]
        given[key] = _build(hint, value, name, source) if is_dataclass(hint) else _checked(hint, value, name)
    return kind(**given)


def _checked(hint: Any, value: Any, name: str) -> Any:
    """``value`` as a ``hint``; what only YAML's spelling sets apart (1e-3, one name for a list) is understood."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and type(None) in options:
            return None
        return _checked(next(option for option in options if option is not type(None)), value, name)
    if origin is Literal:
        value = "none" if value is None and "none" in options else value
        if value not in options:
            raise RecipeError(f"{name} is {value!r}.", did_you_mean(str(value), map(str, options)))
        return value
    if origin is tuple:
        listed = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(listed, list | tuple):
            raise RecipeError(f"{name} is {value!r}; it is a list: {name}=[one, two]")
        return tuple(_checked(options[0], item, name) for item in listed)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{name} is {value!r}; it is a section.")
        inner = (lambda key, item: item) if options[1] is Any else (lambda key, item: _checked(options[1], item, key))
        return {str(key): inner(f"{name}.{key}", item) for key, item in value.items()}
    if hint is float:
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise RecipeError(f"{name} is {value!r}; it is a number.")
        return number
    if hint is int:
        if isinstance(value, str) and re.fullmatch(r"[0-9.]+[eE][+]?[0-9]+", value):  # 1e3, which is text in YAML
            value = float(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise RecipeError(f"{name} is {value!r}; it is a whole number.")
        return value
    if not isinstance(value, hint):
        names = {bool: "true or false", str: "text"}
        raise RecipeError(f"{name} is {value!r}; it is {names.get(hint, hint.__name__)}.")
    return value


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value
