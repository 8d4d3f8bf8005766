"""`TextToLora`: a description encoder and a hypernetwork together, and the checkpoint folder that holds them.

Axis letters: N descriptions, E embedding width.

Level 2. `TextToLora.generate` is the only door through which adapters are made: the command line, servers and tests
all go through it. A checkpoint folder is ``config.json`` + ``model.safetensors``; neither writing nor reading one needs
base weights or pickles. Nothing here knows training, evaluation or tasks; of what ships it knows where the files are.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2l.adapter import Adapter, adapters_from_weights
from t2l.encoders import DescriptionEncoder, encoder_from_config, prepare
from t2l.encoders.description import warned_once
from t2l.encoders.encoder import ADAPTER_FOLDER
from t2l.errors import CheckpointError, DescriptionError, T2LError
from t2l.hub import Pushed, download, is_hub_id, push
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec
from t2l.model_cards import CARD_FILE, checkpoint_card
from t2l.prompting import TEMPLATE, recorded
from t2l.storage import (
    MOST_FOREIGN,
    new_folder,
    read_json,
    read_tensors,
    tensors_digest,
    write_bytes,
    write_json,
    write_tensors,
)
from t2l.threads import SMALL, threads

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
_BESIDE = "calibration.*"
FILES = (CONFIG_FILE, TENSOR_FILE, _BESIDE, CARD_FILE, f"{ADAPTER_FOLDER}/*")
"""All that a checkpoint's folder holds, as patterns."""
_SHIPPED = ("smollm2-135m",)
"""Names of the checkpoints that ship, the default first; each is a folder of the assets."""
_ASSETS = Path(str(resources.files("t2l"))) / "assets"
KIND = "t2l-checkpoint"
FORMAT = 1
DEFAULT_MEMORY = 1 << 30
_ALIGNED = 64  # bytes
_REFERENCE_FILES = ("hypermod.pt", "*/hypermod.pt", "*/*/hypermod.pt")  # below its checkpoint folder or repository
_COPIES_WHILE_GENERATING = 2.5  # the head's output, A and B from it, and what the allocator keeps


class TextToLora:
    """Makes LoRA adapters from task descriptions, many at a time, without the base model.

    Args:
        encoder: descriptions -> embedding_NE.
        hypernetwork: embedding_NE -> LoRA weights.
        metadata: JSON values that travel with the checkpoint (how it was trained, its licence).

    Raises:
        CheckpointError: the encoder gives embeddings of another width than the hypernetwork reads.

    Example:
        >>> t2l = TextToLora.from_pretrained("smollm2-135m")
        >>> adapter, = t2l.generate(["Copy the date out of the message."])
        >>> adapter.spec.base_model
        'HuggingFaceTB/SmolLM2-135M-Instruct'
    """

    def __init__(
        self, encoder: DescriptionEncoder, hypernetwork: HyperNetwork, metadata: Mapping[str, Any] | None = None
    ) -> None:
        if encoder.dim != hypernetwork.embedding_dim:
            raise CheckpointError(
                f"The encoder {encoder.identity} gives embeddings of width {encoder.dim}; "
                f"the hypernetwork reads {hypernetwork.embedding_dim}.",
                "Use the encoder that it was trained with.",
            )
        self.encoder = encoder
        self.hypernetwork = hypernetwork.eval()
        self.metadata = dict(metadata or {})
        self.folder: Path | None = None  # where it was read from: what else lies there (a calibration) is not read here

    @property
    def spec(self) -> LoraSpec:
        """Which modules of which base the adapters are for."""
        return self.hypernetwork.spec

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the hypernetwork's parameters, as every adapter's provenance names its checkpoint."""
        return tensors_digest(self.hypernetwork.state_dict())

    def to(self, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> TextToLora:
        """Moves the hypernetwork; the encoder stays where it is. Returns itself."""
        _ = self.digest  # of the parameters as they were read, whatever they are rounded to now
        self.hypernetwork.to(device=device, dtype=dtype)
        return self

    def generate(self, descriptions: Sequence[str]) -> list[Adapter]:
        """One adapter for each description, in order; bit for bit what its description gives alone.

        Descriptions go through encoder and hypernetwork one at a time: in a batch, the products of a matrix library
        round differently with the number of rows, and an adapter would have another digest with each company.

        Raises:
            DescriptionError: a description is empty, blank, over-long or not text; nothing is made then.

        Example:
            >>> adapters = TextToLora.from_pretrained().generate(["Copy the date out.", "Name the city."])
            >>> adapters[0].save("date")
        """
        return list(self.stream(descriptions))

    def stream(self, descriptions: Sequence[str]) -> Iterator[Adapter]:
        """As `generate`, one adapter at a time: for more adapters than fit into memory together."""
        if isinstance(descriptions, str):
            raise DescriptionError("generate takes a list of descriptions.", f"Write [{descriptions[:40]!r}].")
        rows = self._embedded(descriptions)
        provenances = [{"description": d, "encoder": self.encoder.identity} for d in descriptions]
        yield from self._stream(rows, provenances)

    def generate_from_embeddings(self, embedding_NE: Tensor) -> list[Adapter]:
        """One adapter for each row of embeddings that this checkpoint's encoder (or an average of such) has made.

        Args:
            embedding_NE: (N, E), in the encoder's scale: norm sqrt(E) for text encoders.

        Raises:
            DescriptionError: another shape, or values that are not finite.
        """
        if embedding_NE.ndim != 2:
            shape = tuple(embedding_NE.shape)
            raise DescriptionError(
                f"The embeddings have shape {shape}; (N, {self.hypernetwork.embedding_dim}) is read."
            )
        return list(self._stream(_rows(embedding_NE), [{} for _ in embedding_NE]))

    def blend(self, descriptions: Sequence[str], weights: Sequence[float] | None = None) -> Adapter:
        """One adapter between several descriptions, or beyond them, in the hypernetwork's task features.

        The features are averaged before there are any LoRA weights, so the result has the rank of any other adapter.
        To add finished adapters, see `t2l.composition`.

        Args:
            weights: one for each description; the same for all, summing to 1, by default. They are used as they are:
                those that sum to 1 lie on the line, plane, ... through the descriptions; [1.5, -0.5] lies beyond.

        Raises:
            DescriptionError: as for `generate`; or not one finite weight for each description.

        Example:
            >>> t2l = TextToLora.from_pretrained()
            >>> between = t2l.blend(["Copy the date out.", "Name the city."], [0.5, 0.5])
        """
        if isinstance(descriptions, str):
            raise DescriptionError("blend takes a list of descriptions.", f"Write [{descriptions[:40]!r}].")
        embedding_NE = nn.utils.rnn.pad_sequence([row_1E[0] for row_1E in self._embedded(descriptions)], True)
        shares = [1 / len(descriptions) for _ in descriptions] if weights is None else [float(w) for w in weights]
        if len(shares) != len(descriptions) or not all(math.isfinite(share) for share in shares):
            raise DescriptionError(f"The weights {shares} are not one finite number for each of the descriptions.")
        with torch.inference_mode(), threads(self._threads):
            task_NK = self.hypernetwork.encode(embedding_NE)
            share_1N = torch.tensor([shares], device=task_NK.device, dtype=task_NK.dtype)
            made = self.hypernetwork.output_affine(self.hypernetwork.decode(share_1N @ task_NK))
        parts = [{"description": description} for description in descriptions]
        composition = {"method": "features", "weights": shares, "parts": parts}
        provenance = {"composition": composition, "encoder": self.encoder.identity, **self._origin()}
        return adapters_from_weights(self.spec, made.map(torch.clone), [provenance])[0]

    @property
    def system(self) -> str:
        """The system message that prompts had in training: `t2l.prompting.TEMPLATE`, `NONE` or a text."""
        return str(self.metadata.get("system", TEMPLATE))

    def chunk_size(self, memory: int = DEFAULT_MEMORY) -> int:
        """How many adapters one forward pass may make within ``memory`` bytes; at least 1."""
        size = self.spec.num_parameters * self.hypernetwork.dtype.itemsize * _COPIES_WHILE_GENERATING
        return max(1, int(memory / size))

    def _embedded(self, descriptions: Sequence[str]) -> list[Tensor]:
        """A row (1, E) for each description, which does not depend on the others."""
        if self.encoder.exact:
            return _rows(self.encoder.encode(descriptions))
        prepare(descriptions)  # nothing is encoded where one of them cannot be
        with warned_once():
            rows = {text: self.encoder.encode([text]) for text in dict.fromkeys(descriptions)}
        return [rows[text] for text in descriptions]

    def _stream(self, rows: Sequence[Tensor], provenances: Sequence[dict[str, Any]]) -> Iterator[Adapter]:
        if not all(bool(torch.isfinite(row_1E).all()) for row_1E in rows):
            raise DescriptionError("A description embedding holds NaN or infinite values.")
        origin = self._origin()
        for row_1E, provenance in zip(rows, provenances, strict=True):
            with torch.inference_mode(), threads(self._threads):
                weights = self.hypernetwork(row_1E)
            yield from adapters_from_weights(self.spec, weights.map(torch.clone), [{**provenance, **origin}])

    @property
    def _threads(self) -> int | None:
        return 1 if self.hypernetwork.num_parameters < SMALL else None

    def _origin(self) -> dict[str, Any]:
        """What every adapter's provenance says of the checkpoint."""
        return {
            "checkpoint": self.digest,
            "base_model": self.spec.base_model,
            **({"base_weights": self.metadata["base_weights"]} if "base_weights" in self.metadata else {}),
            **recorded(self.metadata),
            "seed": self.metadata.get("seed"),  # of the checkpoint's training; generation itself draws nothing
        }

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None, force: bool = False) -> Path:
        """Writes ``config.json`` and ``model.safetensors``, whole or not at all.

        Args:
            dtype: store the parameters as this dtype; as they are by default.

        Raises:
            OutputError: the folder exists (and ``force`` is not set) or cannot be written.
        """
        with new_folder(folder, marker=CONFIG_FILE, force=force) as inside:
            state = self.hypernetwork.state_dict()
            write_tensors(inside / TENSOR_FILE, {name: value.to(dtype or value.dtype) for name, value in state.items()})
            write_json(
                inside / CONFIG_FILE,
                {
                    "kind": KIND,
                    "format": FORMAT,
                    "encoder": self.encoder.save(inside),
                    "encoder_identity": self.encoder.identity,
                    "hypernetwork": self.hypernetwork.to_config(),
                    "metadata": self.metadata,
                },
            )
            write_bytes(inside / CARD_FILE, self._card().encode())
        return Path(folder).expanduser()

    def push_to_hub(self, repo_id: str, *, dtype: torch.dtype | None = None, **hub: Any) -> Pushed:
        """Writes the checkpoint as `save_pretrained` does and uploads it, with its model card and its calibration.

        Args:
            hub: as `t2l.hub.push` takes them: ``private``, ``token``, ``branch``, ``create_pr``, ``commit_message``.

        Raises:
            OutputError: the hub refuses, or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as place:
            folder = self.save_pretrained(Path(place) / "checkpoint", dtype=dtype)
            for beside in [] if self.folder is None else [*self.folder.glob(_BESIDE), self.folder / CARD_FILE]:
                if beside.is_file():
                    shutil.copyfile(beside, folder / beside.name)
            return push(folder, repo_id, FILES, **hub)

    def _card(self) -> str:
        hypernetwork, spec = self.hypernetwork, self.spec
        facts = {
            "base": spec.base_model or "not named",
            "adapters": f"rank {spec.rank} on {', '.join(spec.target_modules)}",
            "variant": f"{hypernetwork.variant}, {hypernetwork.num_parameters:,} parameters",
            "encoder": self.encoder.identity,
        }
        return checkpoint_card(spec, facts, self.metadata)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        **hub: Any,
    ) -> TextToLora:
        """Reads a checkpoint from a folder, from the hub, or (nothing given) the one that ships with the package.

        Args:
            source: the name of a checkpoint that ships (``"smollm2-135m"``), a folder, or a hub id
                (``"org/name"``), tried in this order; by default `default_checkpoint`.
            revision: branch, tag or commit on the hub.
            device: where the hypernetwork computes.
            dtype: float32, or bfloat16 for speed where the hardware has it.
            hub: for huggingface_hub's ``snapshot_download``: ``token``, ``cache_dir``, ``local_files_only``, ...

        Raises:
            CheckpointError: there is no such checkpoint, it is damaged or of another kind (a checkpoint of the
                reference implementation is named as such, with the command that imports it).
        """
        folder = _find(default_checkpoint() if source is None else source, revision, hub)
        config = read_json(folder / CONFIG_FILE, CheckpointError, most=MOST_FOREIGN)
        if config.get("kind") != KIND:
            raise CheckpointError(f"'{folder / CONFIG_FILE}' is not the config of a t2l checkpoint.")
        if config.get("format") != FORMAT:
            raise CheckpointError(
                f"'{folder}' has checkpoint format {config.get('format')!r}; this version of t2l reads {FORMAT}.",
                "Update t2l.",
            )
        try:
            encoder = encoder_from_config(config["encoder"], folder=folder)
            structure, metadata = config["hypernetwork"], dict(config.get("metadata", {}))
        except (KeyError, TypeError, ValueError) as problem:
            reason = problem.message if isinstance(problem, T2LError) else f"{type(problem).__name__}: {problem}"
            raise CheckpointError(f"'{folder / CONFIG_FILE}' cannot be used: {reason}") from problem
        tensors = _aligned(read_tensors(folder / TENSOR_FILE, CheckpointError))
        hypernetwork = HyperNetwork.from_tensors(structure, tensors, source=folder / TENSOR_FILE)
        t2l = cls(encoder, hypernetwork, metadata)
        t2l.folder = folder
        return t2l.to(device=device, dtype=dtype)


def _aligned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same at addresses as torch gives them: in a file they lie anywhere, and a product's last bits follow that."""
    return {name: tensor.clone() if tensor.data_ptr() % _ALIGNED else tensor for name, tensor in tensors.items()}


def _rows(embedding_NE: Tensor) -> list[Tensor]:
    """Each row (1, E), as a tensor of its own: a view begins at any address, and with that bits can change."""
    return [embedding_NE[index : index + 1].clone() for index in range(len(embedding_NE))]


def default_checkpoint() -> str:
    """The checkpoint that is meant where none is named: ``$T2L_CHECKPOINT``, or else the first of those that ship.

    Raises:
        CheckpointError: this installation has none.
    """
    if chosen := os.environ.get("T2L_CHECKPOINT"):
        return chosen
    for name in _SHIPPED:
        if (_ASSETS / name / CONFIG_FILE).is_file():
            return name
    raise CheckpointError("This installation of t2l has no checkpoint.", "Install t2l again.")


def shipped_checkpoint(name: str) -> Path:
    """The folder of a checkpoint that ships with the package.

    Raises:
        CheckpointError: this installation lacks it.
    """
    folder = _ASSETS / name
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"This installation of t2l lacks the checkpoint '{name}'.", "Install t2l again.")
    return folder


def reading_lora(folder: Path | None) -> Path | None:
    """The LoRA beside a checkpoint that ships: one for all its training tasks, which reads descriptions in the prompt.

    Returns:
        None where the checkpoint has none.
    """
    found = None if folder is None else folder.with_name(f"{folder.name}-reading")
    return found if found is not None and found.parent == _ASSETS and found.is_dir() else None


def shipped_reading_lora(source: str | None) -> Path | None:
    """As `reading_lora`, of a checkpoint that is named, or of the default one, without loading it."""
    name = source or default_checkpoint()
    return reading_lora(shipped_checkpoint(name)) if name in _SHIPPED else None


def _find(source: str | Path, revision: str | None, hub: Mapping[str, Any]) -> Path:
    if str(source) in _SHIPPED:
        return shipped_checkpoint(str(source))
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / CONFIG_FILE).is_file():
            if any(next(folder.glob(pattern), None) for pattern in _REFERENCE_FILES):
                raise CheckpointError(
                    f"'{folder}' holds a checkpoint of the reference implementation.",
                    f"Import it first: t2l import {folder} OUT",
                )
            raise CheckpointError(f"'{folder}' has no {CONFIG_FILE}, so it is not a t2l checkpoint.")
        return folder
    if folder.exists():
        raise CheckpointError(f"'{folder}' is a file; a checkpoint is a folder.")
    return _download(str(source), revision, hub)


def _download(source: str, revision: str | None, hub: Mapping[str, Any]) -> Path:
    if not is_hub_id(source):
        raise CheckpointError(
            f"There is no folder '{source}'.",
            f"Give a checkpoint folder, a hub id (org/name), or one that ships: {', '.join(_SHIPPED)}.",
        )
    folder = download(source, FILES, revision=revision, error=CheckpointError, **hub)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"The repository '{source}' has no {CONFIG_FILE}, so it is not a t2l checkpoint.",
            f"If it holds checkpoints of the reference implementation: t2l import {source} OUT",
        )
    return folder
