"""Everyday tasks that were written one by one: draws of examples, and ten wordings each by different voices."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from lab.tasks import EverydayTask


def written_tasks() -> list[EverydayTask]:
    """The tasks of all modules in this folder; each module has a ``CATALOGUE``."""
    names = sorted(module.name for module in iter_modules(__path__))
    return [task for name in names for task in import_module(f"lab.catalogue.{name}").CATALOGUE.tasks]
