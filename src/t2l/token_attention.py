"""A task encoder that reads a description word by word: token states, a small transformer, and a few learned queries.

Axis letters: N samples, T tokens, W width of a token's state, E = T * W embedding width, D model width, H attention
heads, Q queries, K feature width.

Level 0. One sentence vector from a small encoder tells 'first' from 'last' badly, and cannot be asked which word is
which; token states can. Pooling by learned queries: Set Transformer, arXiv 1810.00825, section 3.2. Nothing here knows
where the states come from or what the features are for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.errors import T2LError
from t2l.features import TaskEncoder, new_embedding

_HEADS = 4
_QUERIES = 6
_CHUNK = 32  # texts read at a time
_LAYERS = 2
_POSITION_SCALE = 0.1  # embeddings begin with variance 1, which would drown the words
DROPOUT = 0.1
TOKEN_DROPOUT = 0.1


class TokenTaskEncoder(TaskEncoder):
    """Task features from the states of a description's tokens.

    Args:
        embedding_dim: E, the states of T tokens one after the other; tokens that are all zero are padding.
        token_dim: W.
        out_features: K.
        model_dim: D.

    Raises:
        T2LError: E is not a multiple of W.
    """

    def __init__(self, embedding_dim: int, token_dim: int, out_features: int, model_dim: int = 256) -> None:
        super().__init__()
        if token_dim < 1 or embedding_dim % token_dim:
            raise T2LError(
                f"An embedding of width {embedding_dim} is not a whole number of token states of width {token_dim}."
            )
        self.out_features = out_features
        self.token_dim = token_dim
        self.norm = nn.LayerNorm(token_dim)
        self.enter = nn.Linear(token_dim, model_dim)
        self.position = new_embedding(embedding_dim // token_dim, model_dim)
        self.layers = nn.ModuleList([_Layer(model_dim) for _ in range(_LAYERS)])
        self.query = new_embedding(_QUERIES, model_dim)
        self.pool = _Attention(model_dim)
        self.leave = nn.Linear(_QUERIES * model_dim, out_features)
        self.out_norm = nn.LayerNorm(out_features)

    def forward(self, embedding_NE: Tensor) -> Tensor:
        state_NTW = embedding_NE.unflatten(-1, (-1, self.token_dim))
        real_NT = (state_NTW != 0).any(dim=-1)
        if not len(real_NT):
            return embedding_NE.new_zeros(0, self.out_features)
        order_N = real_NT.sum(dim=1).argsort(stable=True)  # texts of similar length together, to spare padding
        parts = [self._read(state_NTW[rows], real_NT[rows]) for rows in order_N.split(_CHUNK)]
        return torch.cat(parts)[order_N.argsort()]

    def _read(self, state_NTW: Tensor, real_NT: Tensor) -> Tensor:
        longest = max(1, int(real_NT.sum(dim=1).max()))
        state_NTW, real_NT = state_NTW[:, :longest], real_NT[:, :longest]
        if self.training:  # words left out at random; the first stays, so that none is left empty
            kept_NT = torch.rand(real_NT.shape, device=real_NT.device) >= TOKEN_DROPOUT
            kept_NT[:, 0] = True
            real_NT = real_NT & kept_NT
        x_NTD = self.enter(self.norm(state_NTW)) + _POSITION_SCALE * self.position.weight[:longest]
        x_NTD = F.dropout(x_NTD, DROPOUT, self.training)
        for layer in self.layers:
            x_NTD = layer(x_NTD, real_NT)
        query_NQD = self.query.weight.expand(len(x_NTD), -1, -1)
        pooled_NQD = self.pool(query_NQD, x_NTD, real_NT)
        return self.out_norm(self.leave(pooled_NQD.flatten(1)))


class _Layer(nn.Module):
    """A pre-norm transformer layer over the tokens of each sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x_NTD: Tensor, real_NT: Tensor) -> Tensor:
        y_NTD = self.norm1(x_NTD)
        x_NTD = x_NTD + F.dropout(self.attention(y_NTD, y_NTD, real_NT), DROPOUT, self.training)
        return x_NTD + F.dropout(self.mlp(self.norm2(x_NTD)), DROPOUT, self.training)


class _Attention(nn.Module):
    """Multi-head attention of one sequence to the real tokens of another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_kv, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x_NQD: Tensor, y_NTD: Tensor, real_NT: Tensor) -> Tensor:
        q_NHQC = self.to_q(x_NQD).unflatten(-1, (_HEADS, -1)).transpose(1, 2)
        k_NHTC, v_NHTC = self.to_kv(y_NTD).unflatten(-1, (2, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        mask_N11T = real_NT[:, None, None, :]
        mixed_NHQC = F.scaled_dot_product_attention(q_NHQC, k_NHTC, v_NHTC, attn_mask=mask_N11T)
        return self.out(mixed_NHQC.transpose(1, 2).flatten(2))
