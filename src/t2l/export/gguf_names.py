"""What llama.cpp calls the architectures and tensors of Hugging Face models, and how it orders the rows of Q and K.

Axis letters: O out-features (rows of a weight).

Level 5. Tensor names come from the ``gguf`` package's own map. This file reads configs; it holds no weights and writes
no files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from t2l.errors import BaseModelError

if TYPE_CHECKING:
    from gguf import TensorNameMap

ARCHITECTURES = {
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "gemma": "GEMMA",
    "gemma2": "GEMMA2",
    "gemma3_text": "GEMMA3",
    "phi3": "PHI3",
    "gpt2": "GPT2",
}
"""``model_type`` of a config -> member of ``gguf.MODEL_ARCH``, for the bases whose linear weights llama.cpp stores as
they are, but for the rows of Llama's Q and K."""

_SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True, eq=False)
class Layout:
    """How one base is laid out in GGUF files.

    Args:
        name: ``general.architecture``.
        config: of the base.
        names: the map of tensor names.
    """

    name: str
    config: Any
    names: TensorNameMap

    def tensor(self, name: str) -> str:
        """llama.cpp's name for a parameter: ``model.layers.0.mlp.up_proj.weight`` -> ``blk.0.ffn_up.weight``.

        Raises:
            BaseModelError: it has none.
        """
        found = self.names.get_name(name, try_suffixes=_SUFFIXES)
        if found is None:
            raise BaseModelError(
                f"llama.cpp's architecture '{self.name}' has no tensor for '{name}'.",
                "Adapt other modules (those of attention and MLP have one), or use another export.",
            )
        return found

    def rows(self, name: str, tensor: Tensor) -> Tensor:
        """``tensor`` (O first) with its rows as llama.cpp expects them.

        Hugging Face rotates the first half of a head against the second, llama.cpp's Llama neighbours against each
        other, so there the rows of each head of Q and K are interleaved: 0, d/2, 1, d/2 + 1, ... A LoRA's B has the
        rows of its module, and A none of them.
        """
        if self.name != "llama":
            return tensor
        heads = _heads(self.config)[1 if ".k_proj" in name else 0]
        if not any(part in name for part in (".q_proj", ".k_proj")):
            return tensor
        split = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return split.transpose(1, 2).reshape(tensor.shape)


def layout_of(config: Any) -> Layout:
    """The layout of the base with this config.

    Raises:
        BaseModelError: an architecture whose GGUF form is not known here.
    """
    kind = str(getattr(config, "model_type", "?"))
    if kind not in ARCHITECTURES:
        raise BaseModelError(
            f"The base is of type '{kind}', whose GGUF form t2l does not write.",
            f"Known: {', '.join(ARCHITECTURES)}. For others: export --to peft or merged, then llama.cpp's converters.",
        )
    import gguf

    architecture = getattr(gguf.MODEL_ARCH, ARCHITECTURES[kind])
    layers = int(config.get_text_config().num_hidden_layers)
    return Layout(gguf.MODEL_ARCH_NAMES[architecture], config, gguf.get_tensor_name_map(architecture, layers))


def _heads(config: Any) -> tuple[int, int]:
    """(query heads, key heads)."""
    queries = int(config.num_attention_heads)
    return queries, int(getattr(config, "num_key_value_heads", None) or queries)
