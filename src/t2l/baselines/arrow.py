"""Arrow (arXiv 2405.11157): every token goes through those adapters of a library that are made for tokens like it.

The prototype of an adapter at a module is the top right singular vector of B A, the input direction that it changes
most. A token's scores are the absolute products with the prototypes; a softmax over the ``top_k`` largest mixes these
adapters' outputs. No description is read and nothing is trained.

The routing is that of PEFT's `create_arrow_model`, prototypes included; only the adapters that a token is mixed from
are computed, where PEFT computes every adapter for every token.

Axis letters: S samples, T tokens, M adapters, K adapters of a token, R rank, I in-features, O out-features.

Level 5. Knows a base and a library; does not know texts or tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from t2l.errors import T2LError
from t2l.library import Library

_POWER_ITERATIONS = 15  # as in PEFT
_TINY = 1e-8
_GATHERED = 1 << 22  # most numbers of A, or of B, that are gathered at once for the tokens of a module


def arrow_model(
    base: Any,
    library: Library,
    names: Sequence[str] | None = None,
    *,
    top_k: int = 3,
    temperature: float = 1.0,
    seed: int = 0,
) -> Any:
    """The base with Arrow routing over the library's adapters: a causal LM like ``base``, which is left as it is.

    Parameters are shared with ``base``, not copied; the adapters are held in memory, in float32. A token's pass
    through a module costs M products with prototypes and K adapters. Scores do not depend on the adapters' scaling.

    Args:
        base: frozen Hugging Face causal LM.
        names: the adapters routed over; all by default.
        top_k: adapters a token is mixed from; all of the library's where it has fewer.
        temperature: of the softmax over their scores; the lower, the more the best one counts.
        seed: of the starting vectors of the power iteration that finds the prototypes.

    Raises:
        T2LError: no adapters, or top_k or temperature that cannot be.
        BaseModelError: the base lacks modules of the library, or their shapes differ.
    """
    names = library.names if names is None else list(names)
    if not names:
        raise T2LError("Arrow routes over adapters, and there is none.")
    if top_k < 1 or temperature <= 0:
        raise T2LError(f"top_k={top_k} must be at least 1 and temperature={temperature} positive.")
    spec = library.spec
    spec.check_base(base)
    routed = copy.deepcopy(base, {id(tensor): tensor for tensor in [*base.parameters(), *base.buffers()]})
    weights = library.weights(names)
    for group in spec.groups:
        for place, path in enumerate(group.module_paths()):
            a_MRI, b_MOR = weights.a[group.key][:, place], weights.b[group.key][:, place]
            parent, _, name = path.rpartition(".")
            module = routed.get_submodule(path).requires_grad_(False)
            prototype_MI = prototypes_of(a_MRI, b_MOR, seed)
            b_MRO = spec.scaling * b_MOR.mT
            site = _RoutedModule(module, prototype_MI, a_MRI, b_MRO, min(top_k, len(names)), temperature)
            setattr(routed.get_submodule(parent), name, site.to(next(module.parameters()).device))
    return routed.requires_grad_(False).train(base.training)


def prototypes_of(a_MRI: Tensor, b_MOR: Tensor, seed: int = 0) -> Tensor:
    """prototype_MI: each adapter's top right singular vector of B A, of length 1 and either sign; 0 where B A is 0.

    Found by power iteration from one random vector, in as many steps as PEFT takes; B A is never formed.
    """
    gram_MRR = b_MOR.mT @ b_MOR
    start_I = torch.randn(a_MRI.shape[-1], generator=torch.Generator().manual_seed(seed))
    vector_MI1 = start_I.to(a_MRI.device).expand(len(a_MRI), -1)[..., None]
    for _ in range(_POWER_ITERATIONS):
        vector_MI1 = a_MRI.mT @ (gram_MRR @ (a_MRI @ vector_MI1))
        vector_MI1 = vector_MI1 / (vector_MI1.norm(dim=1, keepdim=True) + _TINY)
    return vector_MI1[..., 0]


class _RoutedModule(nn.Module):
    """A frozen module and the adapters that its input tokens are routed to; B comes transposed and scaled."""

    prototype_MI: Tensor
    a_MRI: Tensor
    b_MRO: Tensor

    def __init__(
        self, module: nn.Module, prototype_MI: Tensor, a_MRI: Tensor, b_MRO: Tensor, top_k: int, temperature: float
    ) -> None:
        super().__init__()
        self.module = module
        self.top_k = top_k
        self.temperature = temperature
        self.register_buffer("prototype_MI", prototype_MI, persistent=False)
        self.register_buffer("a_MRI", a_MRI.contiguous(), persistent=False)
        self.register_buffer("b_MRO", b_MRO.contiguous(), persistent=False)

    def forward(self, x_STI: Tensor) -> Tensor:
        y_STO = self.module(x_STI)
        x_TI = x_STI.reshape(-1, x_STI.shape[-1]).float()
        score_TK, index_TK = (x_TI @ self.prototype_MI.mT).abs().topk(self.top_k, dim=1)
        share_TK = (score_TK / self.temperature).softmax(dim=1)
        _, rank, width = self.a_MRI.shape
        tokens = max(1, _GATHERED // (self.top_k * rank * max(width, y_STO.shape[-1])))
        parts = zip(x_TI.split(tokens), index_TK.split(tokens), share_TK.split(tokens), strict=True)
        change_TO = torch.cat([self._mixed(*part) for part in parts])
        return y_STO + change_TO.view(y_STO.shape).to(y_STO.dtype)

    def _mixed(self, x_TI: Tensor, index_TK: Tensor, share_TK: Tensor) -> Tensor:
        """What the chosen adapters of each token give together: (T, O)."""
        hidden_TKR = torch.einsum("tkri,ti->tkr", self.a_MRI[index_TK], x_TI)
        return torch.einsum("tkr,tkro->to", hidden_TKR * share_TK[..., None], self.b_MRO[index_TK])
