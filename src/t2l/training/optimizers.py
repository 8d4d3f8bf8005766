"""Muon for the matrices inside a network, AdamW for everything else.

Level 4. Muon (Jordan et al., 2024; arXiv 2502.16982) makes every update of a matrix nearly orthogonal. It suits hidden
matrices; embeddings, norms, and the last layers that write LoRA weights stay with AdamW. Knows parameters by name and
shape alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from t2l.errors import T2LError


def muon_and_adamw(
    module: nn.Module,
    is_hidden_matrix: Callable[[str, nn.Parameter], bool],
    *,
    matrix_lr: float,
    other_lr: float,
    matrix_decay: float = 0.02,
    other_decay: float = 0.0,
) -> list[torch.optim.Optimizer]:
    """The two optimisers of a module; AdamW alone where ``matrix_lr`` is 0 or nothing is chosen.

    Args:
        is_hidden_matrix: by name and parameter; only two-dimensional parameters are asked about.
        matrix_lr: peak of Muon, scaled so that updates are as large as AdamW's.
        other_lr: peak of AdamW.

    Raises:
        T2LError: this torch has no Muon.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        chosen = matrix_lr > 0 and parameter.ndim == 2 and is_hidden_matrix(name, parameter)
        (matrices if chosen else others).append(parameter)
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=other_lr, weight_decay=other_decay, betas=(0.9, 0.98))
    ]
    if matrices:
        if not hasattr(torch.optim, "Muon"):
            raise T2LError(f"This training takes torch 2.9 or newer (its Muon); this is {torch.__version__}.")
        found.append(
            torch.optim.Muon(matrices, lr=matrix_lr, weight_decay=matrix_decay, adjust_lr_fn="match_rms_adamw")
        )
    return found
