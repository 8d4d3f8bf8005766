"""Mean and spread of every weight element over a library, in one streaming pass whose result is kept on disk.

Axis letters: N adapters (1 here), L layers, R rank, I in-features, O out-features.

Level 4. One adapter is in memory at a time. This file does not know what z-scores are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from t2l.encoders.cache import default_cache_folder
from t2l.errors import T2LError
from t2l.hypernet import HyperNetwork
from t2l.library import Library
from t2l.lora import LoraSpec, LoraWeights
from t2l.storage import check_tensors, new_file, read_tensors, write_tensors

_LEAST_SPREAD = 1e-3  # of the typical element's standard deviation


@dataclass(frozen=True)
class LibraryStatistics:
    """Mean and standard deviation of every weight element over a library, as LoRA weights with N = 1.

    Args:
        mean: element by element.
        std: of the population, so that the z-scores of the library have variance 1. An element that hardly varies is
            given a thousandth of the typical spread of its factor: its z-scores stay near 0 and rounding errors small.
    """

    mean: LoraWeights
    std: LoraWeights

    @classmethod
    def of(cls, adapters: Iterable[LoraWeights]) -> LibraryStatistics:
        """From adapters that come one at a time (``library.stream()``): Welford's method in float64.

        Raises:
            T2LError: fewer than two adapters.
        """
        count = 0
        mean: LoraWeights | None = None
        squares: LoraWeights | None = None  # sums of squared differences from the mean so far
        for adapter in adapters:
            for row in range(adapter.num_samples):
                value = adapter.select(row).to(torch.float64)
                count += 1
                if mean is None or squares is None:
                    mean, squares = value.map(torch.clone), value.map(torch.zeros_like)
                    continue
                for means, sums, values in ((mean.a, squares.a, value.a), (mean.b, squares.b, value.b)):
                    for key, x in values.items():
                        difference = x - means[key]
                        means[key] += difference / count
                        sums[key] += difference * (x - means[key])
        if mean is None or squares is None or count < 2:
            raise T2LError(f"The spread of a library of {count} adapters is not defined; it needs at least 2.")
        total = count
        std = squares.map(lambda sums: _floored((sums / total).sqrt()))
        return cls(mean.to(torch.float32), std.to(torch.float32))

    @classmethod
    def cached(
        cls,
        library: Library,
        names: Sequence[str] | None = None,
        *,
        folder: str | Path | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> LibraryStatistics:
        """As `of` over a library, read from disk where an earlier run computed it for the same files.

        Args:
            names: the adapters that count; all by default.
            folder: where results are kept; ``statistics`` in the cache of this account by default.
            report: called after each adapter read with (read, in all).

        Raises:
            T2LError: fewer than two adapters.
            OutputError: the result cannot be kept.
        """
        names = library.names if names is None else list(names)
        folder = default_cache_folder() / "statistics" if folder is None else Path(folder)
        path = folder / f"{library.fingerprint(names)}.safetensors"
        if path.is_file():
            try:
                return cls._load(path, library.spec)
            except T2LError:
                pass  # torn or of an older form: computed again, and replaced

        def counted() -> Iterable[LoraWeights]:
            for done, adapter in enumerate(library.stream(names), start=1):
                yield adapter
                if report is not None:
                    report(done, len(names))

        found = cls.of(counted())
        with new_file(path, force=True) as temporary:
            write_tensors(temporary, found._tensors())
        return found

    def set_on(self, hypernetwork: HyperNetwork) -> None:
        """Lets the hypernetwork speak in z-scores inside and give weights outside.

        Raises:
            T2LError: it was built without output gain or shift, or for other shapes.
        """
        self.mean.check(hypernetwork.spec)
        hypernetwork.output_affine.set(gain=self.std, shift=self.mean)

    def _tensors(self) -> dict[str, Tensor]:
        parts = {"mean": self.mean, "std": self.std}
        return {
            f"{part}.{factor}.{key}": tensor
            for part, weights in parts.items()
            for factor, tensors in (("a", weights.a), ("b", weights.b))
            for key, tensor in tensors.items()
        }

    @classmethod
    def _load(cls, path: Path, spec: LoraSpec) -> LibraryStatistics:
        tensors = read_tensors(path, T2LError)
        expected: dict[str, tuple[int, ...]] = {}
        for group in spec.groups:
            depth = len(group.layers)
            for part in ("mean", "std"):
                expected[f"{part}.a.{group.key}"] = (1, depth, spec.rank, group.in_features)
                expected[f"{part}.b.{group.key}"] = (1, depth, group.out_features, spec.rank)
        check_tensors(tensors, expected, source=path, error=T2LError)

        def weights(part: str) -> LoraWeights:
            keys = [group.key for group in spec.groups]
            return LoraWeights(
                {key: tensors[f"{part}.a.{key}"] for key in keys}, {key: tensors[f"{part}.b.{key}"] for key in keys}
            )

        return cls(weights("mean"), weights("std"))


def _floored(std: Tensor) -> Tensor:
    typical = float(std.square().mean().sqrt())
    return std.clamp_min(_LEAST_SPREAD * typical if typical > 0 else 1.0)
