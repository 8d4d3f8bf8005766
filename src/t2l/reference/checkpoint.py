"""Import of checkpoints of the reference implementation (SakanaAI/text-to-lora): from its three files to `TextToLora`.

A checkpoint is a folder with ``args.yaml`` (how it was trained), ``adapter_config.json`` (PEFT) and ``hypermod.pt``
(a state dict). Shapes, layers and the order of the modules are taken from the state dict, so no base model, not even
its config, is needed. Written from the behaviour of the reference implementation; no code of it is used.

**The module order trap.** The row of a module in the module-type embedding is its place in a Python set at training
time, which differs from run to run; ``adapter_config.json`` does not record it. The order of the ``heads.*`` keys does.

Level 2. Nothing is executed from a checkpoint: a state dict that needs more than tensors is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from t2l.encoders import DescriptionEncoder, encoder_from_config
from t2l.errors import CheckpointError, T2LError, did_you_mean
from t2l.features import TaskEncoderKind
from t2l.heads import Variant
from t2l.hub import first_line
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec, ModuleGroup
from t2l.model import TextToLora
from t2l.reference.files import CheckpointFiles, find_files, read_adapter, read_state
from t2l.storage import check_tensors, read_yaml

_STD_FLOOR = 1e-10  # what the reference adds to a standard deviation before it multiplies by it
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj", "gate_up_proj")
_PARTS = {  # names in our state dict -> names in the reference's
    "position_encoder.depth.": "layer_depth_encoder.",
    "position_encoder.module.": "layer_type_encoder.",
    "trunk.mixer.": "mixer.",
    "trunk.block1.branch.": "mlp1.mlp.",
    "trunk.block2.branch.": "mlp2.mlp.",
    "trunk.last.": "mlp3.",
    "head.linears.": "heads.",
    "head.factors.norm.": "out_emb_norm.",
    "head.positions.embedding.": "pos_emb.0.",
    "head.positions.norm.": "pos_emb.1.",
    "task_encoder.linear.": "task_encoder.mlp.0.",
}
_FACTOR_VECTORS = "head.factors.vector_GFD"
_CODES = "task_encoder.code_CK"
_UNUSED = ("rotary_emb.", "task_encoder.cluster_size", "task_encoder.embed_avg")  # held for its training only


def import_checkpoint(source: str | Path, *, checkpoint: str | None = None, revision: str | None = None) -> TextToLora:
    """The reference implementation's checkpoint as a `TextToLora`, exact to float32 rounding.

    Neither the base model nor the sentence encoder is loaded or downloaded.

    Args:
        source: a checkpoint folder, its ``hypermod.pt``, a folder of several checkpoints, or a hub repository
            (``"SakanaAI/text-to-lora"``, or with the checkpoint behind it: ``"SakanaAI/text-to-lora/mistral_7b_t2l"``).
        checkpoint: which one, where the source holds several: its path below the source, or the last part of it.
        revision: of the hub repository.

    Raises:
        CheckpointError: nothing is found, several are and none is chosen (the error lists them), or a file is missing,
            damaged, of another kind, needs code to load, or holds a setting that no reference checkpoint has.
    """
    files = find_files(source, checkpoint, revision)
    settings = _Settings.read(files.args)
    adapter = read_adapter(files.adapter)
    state = read_state(files.state)
    spec = _spec(state, settings, adapter, files)
    hypernetwork = _hypernetwork(state, settings, spec, files.state)
    encoder = _encoder(settings, hypernetwork.embedding_dim, spec, files.args)
    metadata = {"imported_from": "/".join([str(source), *([checkpoint] if checkpoint else [])])}
    return TextToLora(encoder, hypernetwork, {**metadata, "settings": settings.to_dict()})


@dataclass(frozen=True)
class _Settings:
    """What ``args.yaml`` says, in its own words; a missing key has the reference's default."""

    shared_AB_head: bool = False
    autoreg_gen: bool = False
    learnable_pos_emb: bool = False
    training_task: str = "sft"
    pred_z_score: bool = True
    factorized: bool = False
    delta_w_scaling: float = 10000.0
    encoder_type: str = "linear"
    emb_model: str = ""
    model_dir: str = ""
    use_one_hot_task_emb: bool = False
    train_ds_names: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> _Settings:
        """Reads and checks ``args.yaml``; what this import does not need is passed over."""
        found = read_yaml(path, CheckpointError)
        if not isinstance(found, dict):
            raise CheckpointError(f"'{path}' holds {type(found).__name__}, not settings.")
        values = {}
        for field in fields(cls):
            value = found.get(field.name)
            if value is None:
                continue
            if isinstance(field.default, float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value) if abs(value) < 2**63 else math.inf
            elif isinstance(field.default, tuple) and isinstance(value, list):
                value = tuple(str(name) for name in value)
            if type(value) is not type(field.default):
                raise CheckpointError(
                    f"'{path}' says {field.name}: {value!r}; that should be a {_kind(field.default)}."
                )
            values[field.name] = value
        settings = cls(**values)
        settings._check(path)
        return settings

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the metadata of the checkpoint."""
        return {**asdict(self), "train_ds_names": list(self.train_ds_names)}

    def _check(self, path: Path) -> None:
        for name, value, known in (
            ("training_task", self.training_task, ("sft", "recon")),
            ("encoder_type", self.encoder_type, get_args(TaskEncoderKind)),
        ):
            if value not in known:
                raise CheckpointError(f"'{path}' says {name}: {value!r}.", did_you_mean(value, known))
        if not (math.isfinite(self.delta_w_scaling) and self.delta_w_scaling > 0):
            raise CheckpointError(f"'{path}' says delta_w_scaling: {self.delta_w_scaling}; it must be positive.")
        if self.learnable_pos_emb and not self.autoreg_gen:
            raise CheckpointError(f"'{path}' says learnable_pos_emb without autoreg_gen; the two go together.")

    @property
    def variant(self) -> Variant:
        if self.shared_AB_head:
            return "S" if self.autoreg_gen else "M"
        return "R" if self.autoreg_gen else "L"

    @property
    def speaks_z_scores(self) -> bool:
        """The output is in z-scores; without ``factorized`` the reference trains on B A itself, never on z-scores."""
        return self.training_task == "recon" and self.factorized and self.pred_z_score

    @property
    def adds_offset(self) -> bool:
        """``AB_offset`` is added to the output."""
        return self.training_task == "sft" or self.factorized

    @property
    def output_divisor(self) -> float:
        """What A and B are divided by: their product was trained to be ``delta_w_scaling`` times too large."""
        scaled = self.training_task == "recon" and not self.factorized
        return math.sqrt(self.delta_w_scaling) if scaled else 1.0


# --- shapes -------------------------------------------------------------------------------------------------------


def _spec(
    state: Mapping[str, Tensor], settings: _Settings, adapter: Mapping[str, Any], files: CheckpointFiles
) -> LoraSpec:
    modules = _modules(state, files.state)
    rank, alpha = adapter.get("r", 8), adapter.get("lora_alpha", 8)  # PEFT's defaults
    base = str(adapter.get("base_model_name_or_path") or settings.model_dir).rstrip("/") or None
    num_layers = _num_layers(state, modules, files.state)
    layers = _layers(adapter.get("layers_to_transform"), num_layers, files.adapter)
    listed = adapter.get("target_modules")
    if isinstance(listed, list) and {str(name) for name in listed} != set(modules):
        raise CheckpointError(f"'{files.adapter}' lists modules {listed}, '{files.state}' has heads for {modules}.")
    groups = []
    for module in modules:
        shape = _shape(state, module)
        known = _group_of_base(module, base, files) if shape is None or _path(module) is None else None
        in_features, out_features = shape or (0, 0)
        if known is not None:
            in_features, out_features = shape or (known.in_features, known.out_features)
        path = _path(module) or (known.path if known is not None else "")
        groups.append(ModuleGroup(module, path, layers, in_features, out_features))
    try:
        return LoraSpec(
            groups=tuple(groups),
            num_layers=num_layers,
            rank=rank,
            alpha=float(alpha),
            use_rslora=bool(adapter.get("use_rslora", False)),
            dropout=float(adapter.get("lora_dropout") or 0.0),
            base_model=base,
        )
    except (T2LError, TypeError, ValueError, OverflowError) as problem:
        raise CheckpointError(f"'{files.adapter}' and '{files.state}' do not fit: {first_line(problem)}") from problem


def _modules(state: Mapping[str, Tensor], source: Path) -> list[str]:
    """The modules in the order of their heads in the file: that of their rows in the module-type embedding."""
    heads = (name.split(".") for name in state if name.startswith("heads."))
    modules = list(dict.fromkeys(".".join(parts[1:-1]) for parts in heads))
    if not modules or not all(modules):
        raise CheckpointError(
            f"'{source}' has no heads, so it is no hypernetwork of the reference implementation.",
            f"It holds {', '.join(list(state)[:5])}, ...",
        )
    return modules


def _num_layers(state: Mapping[str, Tensor], modules: list[str], source: Path) -> int:
    for name in ("layer_depth_encoder.0.weight", *(f"{kind}.A.{modules[0]}" for kind in _SHAPED)):
        if name in state and state[name].ndim:
            return len(state[name])
    raise CheckpointError(f"'{source}' does not say how many layers the base has (no layer_depth_encoder.0.weight).")


_SHAPED = ("AB_offset", "mean_recon_target", "std_recon_target")


def _shape(state: Mapping[str, Tensor], module: str) -> tuple[int, int] | None:
    """(I, O) of a module, from any tensor that has the shape of A and its partner of the shape of B."""
    for kind in _SHAPED:
        a, b = state.get(f"{kind}.A.{module}"), state.get(f"{kind}.B.{module}")
        if a is not None and b is not None and a.ndim == b.ndim == 3:
            return a.shape[2], b.shape[1]
    return None


def _layers(listed: object, num_layers: int, source: Path) -> tuple[int, ...]:
    if listed is None:
        return tuple(range(num_layers))
    layers = [listed] if isinstance(listed, int) else listed
    if not isinstance(layers, list) or not layers or any(type(n) is not int or not 0 <= n < num_layers for n in layers):
        raise CheckpointError(f"'{source}' sets layers_to_transform: {listed!r}; the base has {num_layers} layers.")
    return tuple(sorted(set(layers)))


def _path(module: str) -> str | None:
    """Where a module of this name sits in every base that the reference implementation knows."""
    if module in _ATTENTION:
        return f"model.layers.{{layer}}.self_attn.{module}"
    if module in _FEED_FORWARD:
        return f"model.layers.{{layer}}.mlp.{module}"
    return None


def _group_of_base(module: str, base: str | None, files: CheckpointFiles) -> ModuleGroup:
    """The module as the base's own config has it, where that is at hand on disk."""
    places = [files.state.parent / "base", *([Path(base)] if base else [])]
    folder = next((place for place in places if (place / "config.json").is_file()), None)
    if folder is None:
        raise CheckpointError(
            f"'{files.state}' does not say where '{module}' sits in the base or which shape it has.",
            f"Put the config.json of the base ({base or 'not named'}) into '{places[0]}' and import again.",
        )
    try:
        groups = LoraSpec.from_base(folder, target_modules=[module]).groups
    except T2LError as problem:
        raise CheckpointError(f"'{module}' cannot be placed: {problem.message}", problem.fix) from problem
    if len(groups) != 1:
        raise CheckpointError(f"'{module}' has {len(groups)} shapes or places in '{folder}'; a checkpoint has one.")
    return groups[0]


# --- the hypernetwork ---------------------------------------------------------------------------------------------


def _hypernetwork(state: Mapping[str, Tensor], settings: _Settings, spec: LoraSpec, source: Path) -> HyperNetwork:
    offset = settings.adds_offset and any(
        bool(tensor.any()) for name, tensor in state.items() if name.startswith("AB_offset.")
    )
    entry = _matrix(state, "task_encoder.mlp.0.weight", source)
    depth = state.get("layer_depth_encoder.1.weight")
    config = {
        "spec": spec.to_dict(),
        "embedding_dim": entry.shape[1],
        "variant": settings.variant,
        "trunk_dim": 4 * len(depth) if depth is not None and depth.ndim else 4,
        "head_dim": _matrix(state, "mlp3.4.weight", source).shape[0],
        "dropout": 0.05,
        "learned_rank_positions": settings.learnable_pos_emb,
        "head_bias": any(name.startswith("heads.") and name.endswith(".bias") for name in state),
        "task_encoder": settings.encoder_type,
        "output_gain": settings.speaks_z_scores,
        "output_shift": settings.speaks_z_scores or offset,
    }
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in HyperNetwork.from_config(config).state_dict().items()}
    wanted = dict(_expected(shapes, spec, settings))
    present = {name: tensor for name, tensor in state.items() if not name.startswith(_UNUSED)}
    for kind in _SHAPED:  # they must fit where they are, and be there where they are used
        needed = settings.speaks_z_scores if kind != "AB_offset" else offset
        if not needed and not any(name.startswith(f"{kind}.") for name in present):
            wanted = {name: shape for name, shape in wanted.items() if not name.startswith(f"{kind}.")}
    check_tensors(present, wanted, source=source, error=CheckpointError)
    floats = {name: tensor.float() for name, tensor in present.items()}
    return HyperNetwork.from_tensors(config, _renamed(floats, shapes, spec, settings), source=source)


def _matrix(state: Mapping[str, Tensor], name: str, source: Path) -> Tensor:
    tensor = state.get(name)
    if tensor is None or tensor.ndim != 2:
        raise CheckpointError(f"'{source}' has no matrix {name}, so it is no hypernetwork of the reference.")
    return tensor


def _their_name(ours: str, settings: _Settings) -> str:
    """The reference's name of a tensor of ours that is stored as it is."""
    if ours.startswith("task_encoder.norm."):
        return ours.replace("norm", "mlp.1" if settings.encoder_type == "linear" else "ln", 1)
    for our_part, their_part in _PARTS.items():
        if ours.startswith(our_part):
            return their_part + ours.removeprefix(our_part)
    return ours


def _expected(
    shapes: Mapping[str, tuple[int, ...]], spec: LoraSpec, settings: _Settings
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors that the file must hold, in the reference's names and shapes."""
    for name, shape in shapes.items():
        if name == _FACTOR_VECTORS:
            yield from ((f"out_emb.{group.key}.{factor}", shape[2:]) for group in spec.groups for factor in "AB")
        elif name == _CODES:
            yield "task_encoder.embed", shape[::-1] if settings.encoder_type == "vq" else shape
        elif not name.startswith("output_affine."):
            yield _their_name(name, settings), shape
    for kind in _SHAPED:
        for group in spec.groups:
            yield f"{kind}.A.{group.key}", (spec.num_layers, spec.rank, group.in_features)
            yield f"{kind}.B.{group.key}", (spec.num_layers, group.out_features, spec.rank)


def _renamed(
    theirs: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], spec: LoraSpec, settings: _Settings
) -> dict[str, Tensor]:
    """The tensors under our names."""
    ours = {}
    for name in shapes:
        if name == _FACTOR_VECTORS:
            ours[name] = torch.stack(
                [torch.stack([theirs[f"out_emb.{group.key}.{factor}"] for factor in "AB"]) for group in spec.groups]
            )
        elif name == _CODES:
            codes = theirs["task_encoder.embed"]
            ours[name] = codes.T.contiguous() if settings.encoder_type == "vq" else codes
        elif name.startswith("output_affine."):
            key, buffer = name.removeprefix("output_affine.groups.").rsplit(".", 1)
            kind, factor = buffer.split("_")
            ours[name] = _affine(theirs, kind, f"{factor.upper()}.{key}", settings)[list(spec.group(key).layers)]
        else:
            ours[name] = theirs[_their_name(name, settings)]
        if name.startswith("head.linears."):
            ours[name] = ours[name] / settings.output_divisor
    return ours


def _affine(theirs: Mapping[str, Tensor], kind: str, which: str, settings: _Settings) -> Tensor:
    """The gain or the shift of one factor of one module, in all layers."""
    if kind == "gain":
        return theirs[f"std_recon_target.{which}"] + _STD_FLOOR
    terms = [f"AB_offset.{which}"] + ([f"mean_recon_target.{which}"] if settings.speaks_z_scores else [])
    return torch.stack([theirs[term] for term in terms if term in theirs]).sum(dim=0)


# --- the encoder --------------------------------------------------------------------------------------------------


def _encoder(settings: _Settings, embedding_dim: int, spec: LoraSpec, source: Path) -> DescriptionEncoder:
    """The encoder that the checkpoint was trained with, described but not loaded."""
    if settings.use_one_hot_task_emb:
        names = settings.train_ds_names
        if len(set(names)) != embedding_dim:
            raise CheckpointError(
                f"'{source}' has {len(set(names))} different train_ds_names; the one-hot embedding has {embedding_dim}."
            )
        return encoder_from_config({"kind": "one-hot", "names": list(names)})
    if settings.emb_model:
        model = settings.emb_model.rstrip("/")
        return encoder_from_config({"kind": "sentence-transformer", "model": model, "dim": embedding_dim})
    if spec.base_model is None:
        raise CheckpointError(f"'{source}' names neither an emb_model nor a base model that could encode descriptions.")
    # the reference loads every base in bfloat16, whatever its own dtype
    return encoder_from_config(
        {"kind": "base-model", "model": spec.base_model, "dim": embedding_dim, "dtype": "bfloat16"}
    )


# --- words for errors ---------------------------------------------------------------------------------------------


def _kind(example: object) -> str:
    return {bool: "yes or no", float: "number", str: "text", tuple: "list"}[type(example)]
