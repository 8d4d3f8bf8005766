"""What a folder holds, how large an adapter's changes are, and what of them descriptions decide.

Axis letters: N samples or descriptions, L layers, M module types. <B A, B' A'> = sum((B^T B') * (A A'^T)) without the
scalings, so no change B A is ever formed.

Level 3. Reports are plain JSON values, so that they can be printed, compared and kept. This file measures and draws; it
does not print, and it does not judge.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from t2l.adapter import PROVENANCE_FILE, Adapter
from t2l.composition import conform
from t2l.encoders.encoder import one_vector
from t2l.errors import CheckpointError, DescriptionError, OutputError, T2LError, UnsupportedAdapterError
from t2l.lora import LoraSpec, LoraWeights
from t2l.model import CONFIG_FILE as CHECKPOINT_CONFIG
from t2l.model import TextToLora
from t2l.peft_format import CONFIG_FILE as ADAPTER_CONFIG
from t2l.peft_format import TENSOR_FILE, kind_of_other
from t2l.reference import STATE_FILE, import_checkpoint
from t2l.storage import MOST_FOREIGN, read_json, read_tensors, write_bytes

if TYPE_CHECKING:
    from t2l.hypernet import HyperNetwork

_ABOVE = ("", "*/", "*/*/", "*/*/*/")  # how deep the reference's checkpoints may lie; not a search of the whole disk
ADAPTER, CHECKPOINT, REFERENCE = "adapter", "checkpoint", "checkpoint of the reference implementation"


PROBES = (
    "Give the last word of the line.",
    "Give the first word of the line.",
    "Put the words in alphabetical order.",
    "Write the text in capital letters.",
    "Add seven to the number.",
    "Say whether the review is positive or negative.",
    "Translate the word into French.",
    "Answer the question about science with the letter of the right choice.",
    "Write a Python function for the request.",
    "Name the capital of the country.",
    "Say whether the second sentence follows from the first.",
    "Solve the word problem step by step.",
)
"""Descriptions of different tasks, for a checkpoint that is given none."""


@dataclass(frozen=True)
class NormTable:
    """How large the weight change is in each layer and module: the Frobenius norm of ``scaling * B @ A``.

    Args:
        layers: depths, the rows.
        modules: module types, the columns.
        norm_LM: the norms; None where a layer's module is not adapted.
    """

    layers: tuple[int, ...]
    modules: tuple[str, ...]
    norm_LM: tuple[tuple[float | None, ...], ...]

    @classmethod
    def of(cls, adapter: Adapter) -> NormTable:
        """The table of one adapter. A module type with several shapes is one column."""
        spec = adapter.spec
        columns = {group.path: group.key.partition("@")[0] for group in spec.groups}
        norms: dict[tuple[int, str], float] = {}
        for key, norm_NL in adapter.weights.delta_norms().items():
            group = spec.group(key)
            for layer, norm in zip(group.layers, norm_NL[0].tolist(), strict=True):
                norms[layer, group.path] = spec.scaling * norm
        rows = tuple(tuple(norms.get((layer, path)) for path in columns) for layer in spec.layers)
        return cls(spec.layers, tuple(columns.values()), rows)

    @property
    def total(self) -> float:
        """The norm of all changes together."""
        return math.sqrt(sum(norm * norm for row in self.norm_LM for norm in row if norm is not None))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "layers": list(self.layers),
            "modules": list(self.modules),
            "values": [list(row) for row in self.norm_LM],
            "total": self.total,
        }


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Args:
        kind: `ADAPTER`, `CHECKPOINT` or `REFERENCE`.
        facts: plain JSON values.
        norms: of the adapter; None for a checkpoint that was given no description.
    """

    kind: str
    facts: dict[str, Any]
    norms: NormTable | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"kind": self.kind, **self.facts, "norms": None if self.norms is None else self.norms.to_dict()}


def inspect(source: str | Path | None = None, *, description: str | None = None) -> Inspection:
    """Recognises what ``source`` is, reads all of it strictly, and measures it.

    Args:
        source: a folder, or the hub id of a checkpoint; the checkpoint that ships by default.
        description: for a checkpoint: make the adapter of this description and measure that as well.

    Raises:
        T2LError: nothing is there, it is damaged or of no known kind, or a description was given for an adapter.

    Example:
        >>> report = inspect("adapters/sort-words")
        >>> report.norms.modules
        ('q_proj', 'v_proj')
    """
    kind = kind_of(source)
    if kind == ADAPTER:
        if description is not None:
            raise T2LError(f"'{source}' is an adapter; a description makes an adapter of a checkpoint.")
        return _of_adapter(Path(str(source)).expanduser())
    t2l = TextToLora.from_pretrained(source) if kind == CHECKPOINT else import_checkpoint(str(source))
    facts = {"path": None if source is None else str(source), **_checkpoint_facts(t2l)}
    if description is None:
        return Inspection(kind, facts)
    (adapter,) = t2l.generate([description.strip()])
    return Inspection(kind, {**facts, "description": description.strip()}, NormTable.of(adapter))


def kind_of(source: str | Path | None) -> str:
    """`ADAPTER`, `CHECKPOINT` or `REFERENCE`, from the files' names alone; anything unknown counts as a checkpoint,
    whose reader then says what is wrong with it.
    """
    folder = Path(source or ".").expanduser()
    if source is None or (folder / CHECKPOINT_CONFIG).is_file():
        return CHECKPOINT
    if folder.name == STATE_FILE or any(any(folder.glob(f"{above}{STATE_FILE}")) for above in _ABOVE):
        return REFERENCE  # it holds a PEFT config as well
    if (folder / ADAPTER_CONFIG).exists():
        return ADAPTER
    if folder.is_dir():
        raise CheckpointError(
            f"'{folder}' is neither a checkpoint (no {CHECKPOINT_CONFIG}, no {STATE_FILE}) nor an adapter "
            f"(no {ADAPTER_CONFIG})."
        )
    return CHECKPOINT


def save_heatmap(norms: NormTable, target: str | Path, *, title: str = "", force: bool = False) -> Path:
    """Draws the norms, layers by modules, as a PNG file, whole or not at all.

    Args:
        force: replace an existing file.

    Raises:
        OutputError: the file exists, is not called .png, or cannot be written.
        T2LError: matplotlib is not installed.
    """
    target = Path(target).expanduser()
    if target.suffix.lower() != ".png":
        raise OutputError(
            f"The heat map is a PNG file; '{target}' is not called so.", f"Try {target.with_suffix('.png')}"
        )
    if target.exists() and not force:
        raise OutputError(f"'{target}' already exists; it was left as it is.", "Choose another name or add --force.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise T2LError(f"The heat map needs matplotlib: {problem}.", "pip install 't2l[plot]'") from problem
    layers, modules = len(norms.layers), len(norms.modules)
    figure = Figure(figsize=(2.6 + 0.9 * modules, 1.6 + 0.22 * max(layers, 8)), layout="constrained")
    axes = figure.add_subplot()
    values = [[math.nan if norm is None else norm for norm in row] for row in norms.norm_LM]
    image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    axes.set_facecolor("0.85")  # shows where nothing is adapted
    axes.set_xticks(range(modules), norms.modules, rotation=30, ha="right")
    step = max(1, layers // 16)
    axes.set_yticks(range(0, layers, step), [str(layer) for layer in norms.layers[::step]])
    axes.set_ylabel("layer")
    axes.set_title(title if len(title) <= 60 else f"{title[:57]}...", fontsize=9, parse_math=False)
    figure.colorbar(image, ax=axes, label="norm of the weight change")
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    write_bytes(target, data.getvalue())
    return target


def cosine(first: Adapter, second: Adapter) -> float:
    """The cosine between the weight changes of two adapters: 1 where they point the same way, 0 where one is zero.

    Raises:
        T2LError: they adapt other modules.
    """
    if first.spec.groups != second.spec.groups:
        raise T2LError("The adapters change other modules, so their changes cannot be compared.")

    spec = max((first.spec, second.spec), key=lambda spec: spec.rank)
    return float(delta_similarity(LoraWeights.cat([conform(one, spec).weights for one in (first, second)]))[0, 1])


def _of_adapter(folder: Path) -> Inspection:
    try:
        adapter = Adapter.load(folder)
    except UnsupportedAdapterError as problem:
        return Inspection(ADAPTER, _facts_of_other(folder, problem))
    ours = (folder / PROVENANCE_FILE).is_file()
    record = read_json(folder / PROVENANCE_FILE, T2LError, most=MOST_FOREIGN) if ours else {}
    facts = {
        "path": str(folder),
        "written_by": "t2l" if ours else "PEFT",
        "form": record.get("form"),
        "dtype": _dtype(next(iter(adapter.weights.a.values()))),
        **_spec_facts(adapter.spec),
        "digest": adapter.digest,
        "provenance": adapter.provenance,
    }
    return Inspection(ADAPTER, facts, NormTable.of(adapter))


def _facts_of_other(folder: Path, problem: UnsupportedAdapterError) -> dict[str, Any]:
    """Of an adapter that t2l cannot use: what it is, in PEFT's words and in ours."""
    config = read_json(folder / ADAPTER_CONFIG, T2LError, most=MOST_FOREIGN)
    tensors = read_tensors(folder / TENSOR_FILE, T2LError)
    named = ("peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "target_modules")
    return {
        "path": str(folder),
        "written_by": "PEFT",
        "unsupported": problem.message,
        "fix": problem.fix,
        "kind_of_adapter": kind_of_other(config, tensors),
        **{name: config[name] for name in named if config.get(name) is not None},
        "dtypes": sorted({_dtype(tensor) for tensor in tensors.values()}),
        "adapter_parameters": sum(tensor.numel() for tensor in tensors.values()),
        "modules": [],
    }


def _checkpoint_facts(t2l: TextToLora) -> dict[str, Any]:
    hypernetwork, encoder = t2l.hypernetwork, t2l.encoder
    try:
        identity = encoder.identity
    except T2LError:  # its model is not here; all else can be said without it
        identity = None
    structure = {name: value for name, value in hypernetwork.to_config().items() if name != "spec"}
    return {
        **structure,
        "parameters": hypernetwork.num_parameters,
        "dtype": str(hypernetwork.dtype).removeprefix("torch."),
        "parts": _parts(hypernetwork),
        "encoder": encoder.to_config(),
        "encoder_identity": identity,
        **_spec_facts(t2l.spec),
        "digest": t2l.digest,
        "metadata": t2l.metadata,
    }


def _parts(hypernetwork: HyperNetwork) -> list[dict[str, Any]]:
    """Size and norm of each part of the hypernetwork; the head's linear layers one by one."""
    squares: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for name, parameter in hypernetwork.named_parameters():
        depth = 3 if name.startswith("head.linears.") else 1
        part = ".".join(name.split(".")[:depth])
        sizes[part] = sizes.get(part, 0) + parameter.numel()
        squares[part] = squares.get(part, 0.0) + float(parameter.detach().double().square().sum())
    return [{"part": part, "parameters": size, "norm": math.sqrt(squares[part])} for part, size in sizes.items()]


def _spec_facts(spec: LoraSpec) -> dict[str, Any]:
    return {
        "base_model": spec.base_model,
        "num_layers": spec.num_layers,
        "rank": spec.rank,
        "alpha": spec.alpha,
        "use_rslora": spec.use_rslora,
        "scaling": spec.scaling,
        "adapter_parameters": spec.num_parameters,
        "modules": [
            {
                "key": group.key,
                "path": group.path,
                "in_features": group.in_features,
                "out_features": group.out_features,
                "layers": list(group.layers),
            }
            for group in spec.groups
        ],
        **({"left_out": list(spec.left_out)} if spec.left_out else {}),
    }


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Site:
    """One layer of one module: the norm of the mean change, and how far single adapters lie from it.

    Args:
        mean: Frobenius norm of the mean weight change, scaling included.
        spread: root mean square distance of the adapters' changes from their mean.
        share: of this site in the spread of all sites together (squares), 0 to 1.
    """

    module: str
    layer: int
    mean: float
    spread: float
    share: float


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` found.

    Args:
        descriptions: those that were compared.
        pairs: for each pair of them (row, row, cosine of embeddings, cosine of weight changes).
        correlation: Pearson's, of the two cosines over all pairs; None where one does not vary.
        drift: for each description the distance of its adapter from the mean, as a share of the mean's norm.
        sites: per layer and module, the largest spread first.
    """

    descriptions: tuple[str, ...]
    pairs: tuple[tuple[int, int, float, float], ...]
    correlation: float | None
    drift: tuple[float, ...]
    sites: tuple[Site, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@torch.inference_mode()
def sensitivity(t2l: TextToLora, descriptions: Sequence[str] = PROBES) -> Sensitivity:
    """How much, where and how faithfully a checkpoint's adapters follow their descriptions.

    A checkpoint whose adapters hardly differ gives a static adapter, whatever its accuracy (LANDSCAPE, section 0).

    Raises:
        DescriptionError: fewer than three different descriptions.
    """
    texts = list(dict.fromkeys(text.strip() for text in descriptions))
    if len(texts) < 3:
        raise DescriptionError(
            f"{len(texts)} different descriptions cannot be compared.", "Give three or more: --description TEXT each."
        )
    embedding_NE = t2l.encoder.encode(texts)
    weights = LoraWeights.cat([adapter.weights for adapter in t2l.generate_from_embeddings(embedding_NE)])
    products = inner_products(weights)  # (module, layer position) -> (N, N), unscaled
    scale = t2l.spec.scaling**2
    whole_NN = torch.stack(list(products.values())).sum(dim=0) * scale
    changes = cosines(whole_NN)
    vector_NW = one_vector(embedding_NE, t2l.encoder.token_dim).double()
    meanings = cosines(vector_NW @ vector_NW.mT)
    count = len(texts)
    pairs = tuple(
        (one, other, meanings[one, other].item(), changes[one, other].item())
        for one in range(count)
        for other in range(one + 1, count)
    )
    mean_square = whole_NN.mean().clamp_min(0)  # |mean change|^2
    distance_N = (whole_NN.diagonal() - 2 * whole_NN.mean(dim=1) + mean_square).clamp_min(0).sqrt()
    drift = tuple((distance_N / mean_square.sqrt().clamp_min(1e-30)).tolist())
    return Sensitivity(tuple(texts), pairs, _pearson(pairs), drift, _sites(t2l, products, scale))


def _pearson(pairs: Sequence[tuple[int, int, float, float]]) -> float | None:
    both = torch.tensor([[pair[2], pair[3]] for pair in pairs], dtype=torch.float64)
    return None if bool((both.std(dim=0) < 1e-12).any()) else float(torch.corrcoef(both.T)[0, 1])


def _sites(t2l: TextToLora, products: dict[tuple[str, int], Tensor], scale: float) -> tuple[Site, ...]:
    found = []
    for (key, place), product_NN in products.items():
        group, square = t2l.spec.group(key), product_NN * scale
        mean = float(square.mean().clamp_min(0))
        spread = float((square.diagonal().mean() - square.mean()).clamp_min(0))
        found.append((key, group.layers[place], mean, spread))
    total = sum(spread for *_, spread in found) or 1.0
    sites = [Site(key, layer, math.sqrt(mean), math.sqrt(spread), spread / total) for key, layer, mean, spread in found]
    return tuple(sorted(sites, key=lambda site: -site.spread))


def inner_products(weights: LoraWeights) -> dict[tuple[str, int], Tensor]:
    """(group, place of the layer in it) -> inner products (N, N) of the samples' weight changes there, float64."""
    found = {}
    for key, a_NLRI in weights.a.items():
        b_NLOR = weights.b[key].double()
        for place in range(a_NLRI.shape[1]):
            a_NRI, b_NOR = a_NLRI[:, place].double(), b_NLOR[:, place]
            rows = []
            for a_RI, b_OR in zip(a_NRI, b_NOR, strict=True):
                rows.append(((b_OR.mT @ b_NOR) * (a_RI @ a_NRI.mT)).sum(dim=(-2, -1)))
            found[key, place] = torch.stack(rows)
    return found


def cosines(product_NN: Tensor) -> Tensor:
    """Cosines (N, N) from inner products; 0 beside a vector that is zero."""
    length_N = product_NN.diagonal().clamp_min(0).sqrt().clamp_min(1e-30)
    return product_NN / (length_N[:, None] * length_N[None])


def delta_similarity(weights: LoraWeights) -> Tensor:
    """Cosines (N, N) of the samples' weight changes, all modules of an adapter as one vector."""
    return cosines(torch.stack(list(inner_products(weights).values())).sum(dim=0))
