"""Arithmetic: a bare number or two numbers, and one computation on them.

The operations on one kind of input share its range as far as the computation allows, so that the input does not tell
which computation is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from lab.world.operations.operation import Operation

FAMILY = "arithmetic"


def _unary(
    name: str,
    compute: Callable[[int], object],
    numbers: range = range(100),
    keep: Callable[[int], bool] = lambda number: True,
    closed: bool = False,
) -> Operation:
    """An operation on one number among those of ``numbers`` that ``keep`` accepts."""
    inputs = [number for number in numbers if keep(number)]

    def draw(rng: Random) -> tuple[str, str]:
        number = rng.choice(inputs)
        return str(number), str(compute(number))

    return Operation(name, FAMILY, draw, closed=closed)


def _binary(
    name: str,
    compute: Callable[[int, int], object],
    numbers: range = range(1, 31),
    keep: Callable[[int, int], bool] = lambda first, second: True,
) -> Operation:
    """An operation on two numbers of the range ``numbers``, written with a space between."""

    def draw(rng: Random) -> tuple[str, str]:
        while True:
            first, second = rng.choice(numbers), rng.choice(numbers)
            if keep(first, second):
                return f"{first} {second}", str(compute(first, second))

    return Operation(name, FAMILY, draw)


def _add(k: int) -> Operation:
    return _unary(f"add-{k}", lambda number: number + k)


def _subtract(k: int) -> Operation:
    return _unary(f"subtract-{k}", lambda number: number - k, range(k, 100))


def _multiply(k: int) -> Operation:
    return _unary(f"multiply-{k}", lambda number: number * k)


def _run(start: int, step: int) -> str:
    """The three numbers that follow ``start``."""
    return " ".join(str(start + step * count) for count in (1, 2, 3))


OPERATIONS: tuple[Operation, ...] = (
    *(_add(k) for k in range(1, 11)),
    *(_subtract(k) for k in range(1, 11)),
    *(_multiply(k) for k in range(2, 11)),
    _unary("halve", lambda number: number // 2, range(0, 100, 2)),
    _unary("square", lambda number: number * number, range(2, 32), closed=True),
    _unary("double-plus-one", lambda number: 2 * number + 1),
    _unary("first-digit", lambda number: str(number)[0], range(10, 100)),
    _unary("last-digit", lambda number: number % 10, range(10, 100)),
    _unary("digit-sum", lambda number: sum(map(int, str(number))), range(10, 100)),
    _unary("reverse-digits", lambda number: str(number)[::-1], range(10, 100)),
    _unary("nearest-ten", lambda number: (number + 5) // 10 * 10, keep=lambda number: number % 10 != 5),
    _unary("next-ten", lambda number: (number // 10 + 1) * 10, keep=lambda number: number % 10 != 0),
    _unary("complement-to-100", lambda number: 100 - number),
    _unary("count-up", lambda number: _run(number, 1)),
    _unary("count-down", lambda number: _run(number, -1), range(3, 100)),
    _binary("sum", lambda first, second: first + second),
    _binary("difference", lambda first, second: first - second, keep=lambda first, second: first > second),
    _binary("product", lambda first, second: first * second, range(2, 13)),
    _binary("larger", max, keep=lambda first, second: first != second),
    _binary("smaller", min, keep=lambda first, second: first != second),
    _binary("mean", lambda first, second: (first + second) // 2, keep=lambda first, second: (first - second) % 2 == 0),
    _binary("concatenate", lambda first, second: f"{first}{second}"),
)
