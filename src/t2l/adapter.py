"""The artifact: one adapter as a PEFT folder that any runtime loads, with its provenance beside it.

Axis letters: N samples (1 here), L layers, R rank, I in-features, O out-features.

Level 1. A folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` (PEFT's own format, nothing added),
``t2l.json`` (where the adapter comes from) and ``README.md`` (a model card). This file does not know hypernetworks,
encoders or checkpoints: a description is only text in a provenance.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from t2l import peft_format
from t2l.errors import AdapterError, T2LError, did_you_mean
from t2l.hub import Pushed, download, is_hub_id, push
from t2l.lora import LoraSpec, LoraWeights
from t2l.model_cards import CARD_FILE, adapter_card
from t2l.peft_format import CONFIG_FILE, DTYPES, TENSOR_FILE, peft_tensors
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

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn

PROVENANCE_FILE = "t2l.json"
FILES = (CONFIG_FILE, TENSOR_FILE, PROVENANCE_FILE, CARD_FILE)
"""All that an adapter's folder holds."""

Form = Literal["portable", "rslora"]
"""``"portable"``: the scaling is inside B and ``lora_alpha = r``, so that runtimes that ignore ``use_rslora`` are right
as well. ``"rslora"``: the reference's form, A and B as generated and the scaling left to the runtime."""

_FORMAT = 1  # of t2l.json


@dataclass(frozen=True, eq=False)
class Adapter:
    """One LoRA adapter for one base: which modules and which tensors, and where they come from.

    Args:
        spec: shapes, rank and scaling.
        weights: N = 1; kept on the CPU and without a graph.
        provenance: JSON values (``description``, ``checkpoint``, ``encoder``, ``seed``); empty where unknown.

    Raises:
        T2LError: the weights are not one adapter of ``spec``, or the provenance is not JSON.

    Example:
        >>> adapter = Adapter.load("adapters/sort-words")
        >>> model = adapter.apply(base)
    """

    spec: LoraSpec
    weights: LoraWeights
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights.check(self.spec)
        if self.weights.num_samples != 1:
            raise T2LError(f"An adapter has one set of weights; these are {self.weights.num_samples} (N must be 1).")
        try:
            json.dumps([self.provenance, self.spec.to_dict()], ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as problem:
            raise T2LError(f"The provenance of an adapter must be plain JSON values: {problem}.") from problem
        object.__setattr__(self, "weights", self.weights.detach().to("cpu"))

    @property
    def digest(self) -> str:
        """SHA-256 of what the adapter does: A and the scaled B in float32, so the same in either form."""
        return tensors_digest(peft_tensors(self.spec, _portable(self.spec, self.weights, torch.float32)))

    def state_dict(self) -> dict[str, Tensor]:
        """PEFT's keys in the reference's form: A (R, I) and B (O, R) with the scaling left outside.

        ``peft_config("rslora")`` is the config that goes with it.
        """
        return peft_tensors(self.spec, self.weights)

    def delta(self, path: str) -> Tensor:
        """The weight change ``s * B @ A`` of one module, (O, I) in float32 (computed in float64).

        Raises:
            T2LError: ``path`` is not adapted; near names are offered.
        """
        for group in self.spec.groups:
            if path in (paths := group.module_paths()):
                depth = paths.index(path)
                a_RI = self.weights.a[group.key][0, depth].double()
                b_OR = self.weights.b[group.key][0, depth].double()
                return (self.spec.scaling * b_OR @ a_RI).float()
        raise T2LError(f"'{path}' is not adapted.", did_you_mean(path, self.spec.module_paths()))

    @property
    def system(self) -> str | None:
        """The system message of the prompts that it was made for (see `t2l.prompting`); None where it is not known."""
        found = self.provenance.get("system")
        return found if isinstance(found, str) else None

    def portable(self) -> Adapter:
        """The same adapter with the scaling inside B (a scaling of 1), for runtimes that would get it wrong."""
        return Adapter(_portable_spec(self.spec), _portable(self.spec, self.weights, torch.float32), self.provenance)

    def rank_stabilised(self, alpha: float = 16.0) -> Adapter:
        """The same adapter with ``use_rslora`` and this alpha, B divided to match: for runtimes that must scale by it.

        An adapter that is rank-stabilised already is returned as it is. 16 is the alpha of the reference.
        """
        if self.spec.use_rslora:
            return self
        spec = replace(self.spec, alpha=alpha, use_rslora=True)
        factor = self.spec.scaling / spec.scaling
        b = {key: (b_NLOR.double() * factor).float() for key, b_NLOR in self.weights.b.items()}
        return Adapter(spec, LoraWeights(dict(self.weights.a), b), self.provenance)

    def peft_config(self, form: Form = "portable") -> dict[str, Any]:
        """The fields of ``adapter_config.json`` in one of the two forms, as PEFT's LoraConfig writes and reads them."""
        _check_form(form)
        return peft_format.lora_config(self.spec if form == "rslora" else _portable_spec(self.spec))

    def save(
        self,
        folder: str | Path,
        *,
        form: Form = "portable",
        dtype: torch.dtype | str | None = None,
        force: bool = False,
    ) -> Path:
        """Writes the adapter's folder, whole or not at all, and returns its path.

        Args:
            form: see `Form`.
            dtype: float32 (default), bfloat16 or float16.
            force: replace an existing adapter folder; a folder of another kind is never replaced.

        Raises:
            OutputError: the folder exists, or cannot be written.
            AdapterError: unknown form or dtype, or values beyond the range of the dtype.
        """
        _check_form(form)
        kind = _dtype(dtype)
        with new_folder(folder, marker=CONFIG_FILE, force=force) as inside:
            if form == "portable":
                stored, weights = _portable_spec(self.spec), _portable(self.spec, self.weights, kind)
            else:
                stored, weights = self.spec, self.weights.to(kind)
            tensors = peft_tensors(stored, weights)
            too_large = next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)
            if too_large is not None:
                raise AdapterError(
                    f"{too_large} has values that are NaN, infinite or beyond the range of {_name(kind)}.",
                    "Save it as float32." if kind is torch.float16 else None,
                )
            digest = Adapter(stored, weights).digest
            provenance = {**self.provenance, "versions": self.provenance.get("versions", _versions())}
            record = {"format": _FORMAT, "form": form, "dtype": _name(kind), "digest": digest, "provenance": provenance}
            write_tensors(inside / TENSOR_FILE, tensors)
            write_json(inside / CONFIG_FILE, self.peft_config(form))
            write_json(inside / PROVENANCE_FILE, {**record, "spec": stored.to_dict()})
            write_bytes(inside / CARD_FILE, adapter_card(self.spec, record).encode())
        return Path(folder).expanduser()

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Reads a LoRA folder of ours or one that PEFT wrote; everything in it is checked.

        Without ``t2l.json`` the provenance is empty and the spec comes from the tensors and the config; its
        ``num_layers`` is then the least that fits, as a PEFT folder does not tell the depth of the base.

        Raises:
            AdapterError: not such a folder, damaged, a pickle, a kind of adapter other than plain LoRA of one rank,
                or tensors that are missing, extra, misshapen, of another dtype, NaN or infinite.
        """
        folder = Path(folder).expanduser()
        try:
            return cls._load(folder)
        except AdapterError:
            raise
        except T2LError as problem:
            raise AdapterError(f"The adapter in '{folder}' cannot be used: {problem.message}", problem.fix) from problem

    @classmethod
    def _load(cls, folder: Path) -> Adapter:
        config = peft_format.read_config(folder)
        tensors = read_tensors(folder / TENSOR_FILE, AdapterError)
        if not (folder / PROVENANCE_FILE).exists():
            spec = peft_format.spec_from_tensors(tensors, config, folder)
            return cls(spec, peft_format.weights_from_tensors(spec, tensors, folder))
        record = read_json(folder / PROVENANCE_FILE, AdapterError, most=MOST_FOREIGN)
        spec = _recorded_spec(record, config, folder / PROVENANCE_FILE)
        adapter = cls(spec, peft_format.weights_from_tensors(spec, tensors, folder), record["provenance"])
        if adapter.digest != record.get("digest"):
            raise AdapterError(
                f"'{folder / TENSOR_FILE}' or the scaling in {CONFIG_FILE} is not what {PROVENANCE_FILE} was written "
                "for: the digests differ.",
                f"Copy the whole folder again; or, if you changed the adapter yourself, delete {PROVENANCE_FILE}.",
            )
        return adapter

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **hub: Any) -> Adapter:
        """As `load`, from a folder or from a repository of the hub (``"organisation/name"``).

        Args:
            revision: branch, tag or commit on the hub.
            hub: for huggingface_hub's ``snapshot_download``: ``token``, ``cache_dir``, ``local_files_only``, ...
        """
        if Path(source).expanduser().is_dir() or not is_hub_id(str(source)):
            return cls.load(source)
        return cls.load(download(str(source), FILES, revision=revision, error=AdapterError, **hub))

    def push_to_hub(
        self, repo_id: str, *, form: Form = "portable", dtype: torch.dtype | str | None = None, **hub: Any
    ) -> Pushed:
        """Uploads the adapter, as `save` writes it, with its model card; the repository is made where there is none.

        Args:
            hub: as `t2l.hub.push` takes them: ``private``, ``token``, ``branch``, ``create_pr``, ``commit_message``.

        Raises:
            OutputError: the hub refuses, or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as place:
            return push(self.save(Path(place) / "adapter", form=form, dtype=dtype), repo_id, FILES, **hub)

    def apply(self, model: nn.Module, adapter_name: str = "default") -> PeftModel:
        """Puts the adapter on a base model in memory and returns the PeftModel.

        Args:
            model: the base, or a PeftModel, which gets one more adapter (and makes it the active one).
            adapter_name: PEFT's name for the adapter.

        Raises:
            BaseModelError: the base has other modules or shapes; the message gives both.
            T2LError: PEFT cannot use the name, or the PeftModel has an adapter of this name already.
        """
        from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict

        if not adapter_name or "." in adapter_name:
            raise T2LError(f"'{adapter_name}' cannot name an adapter in PEFT: it must be a text without a full stop.")
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        self.spec.check_base(base)  # pyright: ignore[reportArgumentType]
        fields = {**self.peft_config("rslora"), **_exact_targets(self.spec, base)}
        fields["base_model_name_or_path"] = getattr(base, "name_or_path", None) or None
        fields["task_type"] = "CAUSAL_LM" if hasattr(base, "prepare_inputs_for_generation") else None
        config = LoraConfig(**fields)
        training = model.training
        if isinstance(model, PeftModel):
            if adapter_name in model.peft_config:
                raise T2LError(f"The model has an adapter called '{adapter_name}' already.", "Give another name.")
            model.add_adapter(adapter_name, config)
            peft_model = model
        else:
            peft_model = get_peft_model(base, config, adapter_name=adapter_name)  # pyright: ignore[reportArgumentType]
        outcome = set_peft_model_state_dict(peft_model, self.state_dict(), adapter_name=adapter_name)
        assert not outcome.unexpected_keys, outcome.unexpected_keys  # check_base and _exact_targets saw to that
        peft_model.set_adapter(adapter_name)
        for name, parameter in peft_model.named_parameters():
            if f".{adapter_name}." in name:
                parameter.requires_grad_(False)
        return peft_model.train(training)  # PEFT's fresh dropout layers start in training mode


def adapters_from_weights(
    spec: LoraSpec, weights: LoraWeights, provenances: Sequence[Mapping[str, Any]] | None = None
) -> list[Adapter]:
    """Splits the weights of N adapters into N `Adapter`s.

    Args:
        provenances: one for each of the N; empty by default.

    Raises:
        T2LError: not N provenances, or weights that are not those of ``spec``.
    """
    provenances = [{}] * weights.num_samples if provenances is None else provenances
    if len(provenances) != weights.num_samples:
        raise T2LError(f"{len(provenances)} provenances for {weights.num_samples} adapters; give one for each.")
    whole = weights.detach().to("cpu")
    return [Adapter(spec, whole.select(i), dict(provenance)) for i, provenance in enumerate(provenances)]


def _portable(spec: LoraSpec, weights: LoraWeights, dtype: torch.dtype) -> LoraWeights:
    """The scaling folded into B (the product in float64, rounded once)."""
    a = {key: a_NLRI.to(dtype) for key, a_NLRI in weights.a.items()}
    b = {key: (b_NLOR.double() * spec.scaling).to(dtype) for key, b_NLOR in weights.b.items()}
    return LoraWeights(a, b)


def _portable_spec(spec: LoraSpec) -> LoraSpec:
    """``spec`` with a scaling of exactly 1."""
    return replace(spec, alpha=float(spec.rank), use_rslora=False)


def _exact_targets(spec: LoraSpec, base: Any) -> dict[str, Any]:
    """The target fields of the config, or full paths where this very base has more modules of those names."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    simple = peft_format.target_fields(spec)
    config = LoraConfig(**simple)
    sites = {name.replace(".base_layer", "") for name, _ in base.named_modules() if ".lora_" not in name}
    matched = {name for name in sites if check_target_module_exists(config, name)}
    return simple if matched == set(spec.module_paths()) else peft_format.full_path_fields(spec)


def _recorded_spec(record: Mapping[str, Any], config: Mapping[str, Any], where: Path) -> LoraSpec:
    if record.get("format") != _FORMAT:
        raise AdapterError(
            f"'{where}' has format {peft_format.shown(record.get('format'))}; this version of t2l reads {_FORMAT}.",
            "Update t2l, or delete the file to load the adapter without its provenance.",
        )
    spec = record.get("spec")
    if not isinstance(spec, dict) or not isinstance(record.get("provenance"), dict):
        raise AdapterError(f"'{where}' has no spec or no provenance.")
    recorded = LoraSpec.from_dict(spec)
    paths = recorded.module_paths()
    if len(set(paths)) != len(paths):
        raise AdapterError(f"'{where}' lists the same module twice.")
    return peft_format.with_config(recorded, config)


def _check_form(form: str) -> None:
    if form not in get_args(Form):
        raise AdapterError(f"There is no adapter form '{form}'.", did_you_mean(str(form), get_args(Form)))


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    if dtype is None:
        return torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise AdapterError(f"Adapters are not written as '{name}'.", did_you_mean(name, DTYPES))
    return DTYPES[name]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _versions() -> dict[str, str]:
    try:
        own = version("t2l")
    except PackageNotFoundError:  # run from a source folder
        own = "unknown"
    return {"t2l": own, "torch": torch.__version__}
