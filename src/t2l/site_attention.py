"""The hypernetwork that reads words: every (layer, module, rank) attends to the description's tokens for itself.

Axis letters: N samples, T tokens, W width of one token's state, E = T * W condition width, D model width, H attention
heads, C channels of a head, S sites (a layer of a module group, a rank), L layers of a group, R rank, I in-features,
O out-features, Z bottleneck of a layer's own map, K = S * D width of the task features; where the states of every
layer are read, J states a token (a model's layers and its input embedding) of V numbers each, W = J * V; where sites
point at words, V numbers of a word's input embedding, and K = S * (D + V).

Level 1. One pooled vector tells what kind of task a description is about and not which words to answer with; here each
rank-one piece of an adapter chooses the words that it is made from, so a label that only the description names can
reach the weights (compare HINT, arXiv 2212.10315; Doc-to-LoRA). Two parts: `SiteAttention` gives the attended content
of every site (the task features), `SiteHead` turns it into A and B on top of a learned static LoRA. Nothing here knows
texts, encoders, files or base models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2l.errors import T2LError
from t2l.features import TaskEncoder, new_embedding
from t2l.lora import LoraSpec, LoraWeights, ModuleGroup

HEAD_CHANNELS = 64
READER_LAYERS = 2
SHARED_STATES = 4  # of those of every layer, which all sites read
DROPOUT = 0.1
TOKEN_DROPOUT = 0.1
GAIN = 4.0  # output maps are scaled by GAIN / fan-in, so that one learning rate serves every width
_POINTER_SPREAD = 0.05  # of a pointer's query, so that at the start it points at several words
_POINTER_QUERY, _POINTED = 8.0, 64.0  # times queries and gates, so that a few steps of one learning rate move them
_GENERATED_A = 0.4  # spread of the generated part of A at the start, in units of the static A's bound
_POSITION_SCALE = 0.1
_LARGEST = 8.0  # of a standardised state: a text's first token has some that are hundreds of times as large
_WRITERS = frozenset(
    ("o_proj", "down_proj", "out_proj", "c_proj", "fc2", "wo", "w2", "dense", "dense_4h_to_h", "fc_out", "lm_head")
)
"""Last names of modules whose output goes to the residual stream; the input of all others comes from it."""


def site_layers(spec: LoraSpec) -> list[int]:
    """The layer of each site (S): one for every module group, adapted layer and rank, in this order."""
    return [layer for group in spec.groups for layer in group.layers for _ in range(spec.rank)]


def writes_to_residual(group: ModuleGroup) -> bool:
    """Whether a module's output (not its input) lives in the residual stream, by the module's usual name."""
    return group.path.rsplit(".", 1)[-1] in _WRITERS


class SiteAttention(TaskEncoder):
    """What each site attends to in a description: task features (N, S * D), or (N, S * (D + V)) with pointers.

    Args:
        token_dim: W.
        site_layer_S: the layer of each site.
        model_dim: D, a multiple of `HEAD_CHANNELS`.
        max_tokens: longest description, in tokens.
        state_dim: V, where a token's state is that of every layer: each site then also reads the state that its own
            layer sees, and all read those of `SHARED_STATES` layers. Otherwise all sites read the whole state.
        point_dim: V of the input embedding with which a token's state begins, where each site also points at words.

    Raises:
        T2LError: model_dim is no multiple, a state is not that of every layer, or it has no room for an embedding.
    """

    mean_W: Tensor
    std_W: Tensor

    def __init__(
        self,
        token_dim: int,
        site_layer_S: Sequence[int],
        model_dim: int = 384,
        max_tokens: int = 512,
        state_dim: int | None = None,
        point_dim: int | None = None,
    ) -> None:
        super().__init__()
        sites = len(site_layer_S)
        if model_dim < HEAD_CHANNELS or model_dim % HEAD_CHANNELS:
            raise T2LError(f"trunk_dim is {model_dim}; variant T needs a multiple of {HEAD_CHANNELS}.")
        self.token_dim, self.sites, self.model_dim = token_dim, sites, model_dim
        self.out_features = sites * (model_dim + (point_dim or 0))
        self.max_tokens = max_tokens
        self.heads = model_dim // HEAD_CHANNELS
        self.register_buffer("mean_W", torch.zeros(token_dim))
        self.register_buffer("std_W", torch.ones(token_dim))
        self.own: _OwnLayers | None = None
        self.shared_states: list[int] = []
        if state_dim is not None:
            states, rest = divmod(token_dim, state_dim)
            if rest or states < 2 + max(site_layer_S):
                raise T2LError(
                    f"A token's state has {token_dim} numbers; own_layers needs {state_dim} for each of "
                    f"{2 + max(site_layer_S)} states, the input embedding and every layer's.",
                    "Let encoder.layers name all layers of the base, from 0.",
                )
            self.own = _OwnLayers(state_dim, site_layer_S, model_dim)
            self.shared_states = [round(part * (states - 1) / (SHARED_STATES - 1)) for part in range(SHARED_STATES)]
        if point_dim is not None and not 0 < point_dim <= token_dim:
            raise T2LError(f"point_dim is {point_dim}; a token's state has {token_dim} numbers.")
        self.pointers = None if point_dim is None else _Pointers(point_dim, sites, model_dim)
        self.enter = nn.Linear(token_dim if state_dim is None else SHARED_STATES * state_dim, model_dim)
        self.position = new_embedding(max_tokens, model_dim)
        self.layers = nn.ModuleList([_ReaderLayer(model_dim) for _ in range(READER_LAYERS)])
        self.norm = nn.LayerNorm(model_dim)
        self.to_kv = nn.Linear(model_dim, 2 * model_dim)
        self.key_norm = nn.LayerNorm(HEAD_CHANNELS)
        self.query_SD = nn.Parameter(torch.zeros(sites, model_dim))

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Initial parameters beside those of the linear layers and embeddings; nothing is standardised yet."""
        self.query_SD.normal_(generator=generator)
        if self.pointers is not None:
            self.pointers.query_SD.normal_(0.0, _POINTER_SPREAD, generator=generator)
            self.pointers.nothing_S.zero_()
        self.mean_W.zero_()
        self.std_W.fill_(1.0)

    @torch.no_grad()
    def standardise(self, state_KW: Tensor) -> None:
        """Sets mean and spread from the token states of many descriptions, so that what is read has variance 1.

        Args:
            state_KW: without the first token of each text, whose few huge states would hide the spread of the rest.
        """
        self.mean_W.copy_(state_KW.float().mean(dim=0))
        self.std_W.copy_(state_KW.float().std(dim=0).clamp_min(1e-6))

    def standardised(self, embedding_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Token states (N, T, W) of variance about 1, and which tokens (N, T) are real."""
        state_NTW = embedding_NE.unflatten(-1, (-1, self.token_dim))
        real_NT = (state_NTW != 0).any(dim=-1)
        return ((state_NTW - self.mean_W) / self.std_W).clamp(-_LARGEST, _LARGEST), real_NT

    def forward(self, embedding_NE: Tensor) -> Tensor:
        state_NTW, real_NT = self.standardised(embedding_NE)
        if state_NTW.shape[1] > self.max_tokens:
            raise T2LError(f"A description of {state_NTW.shape[1]} tokens; {self.max_tokens} can be read.")
        if self.training:  # words left out at random; the first stays, so that none is left empty
            kept_NT = torch.rand(real_NT.shape, device=real_NT.device) >= TOKEN_DROPOUT
            kept_NT[:, 0] = True
            real_NT = real_NT & kept_NT
        x_NTD = self.enter(self.shared(state_NTW))
        x_NTD = x_NTD + _POSITION_SCALE * self.position.weight[: x_NTD.shape[1]]
        x_NTD = F.dropout(x_NTD, DROPOUT, self.training)
        mask_N11T = real_NT[:, None, None, :]
        for layer in self.layers:
            x_NTD = layer(x_NTD, mask_N11T)
        k_NHTC, v_NHTC = self.to_kv(self.norm(x_NTD)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k_NHTC = self.key_norm(k_NHTC).to(v_NHTC.dtype)
        q_HSC = self.query_SD.unflatten(-1, (self.heads, -1)).transpose(0, 1).to(v_NHTC.dtype)
        q_NHSC = q_HSC.expand(len(k_NHTC), -1, -1, -1)
        content_NHSC = F.scaled_dot_product_attention(q_NHSC, k_NHTC, v_NHTC, attn_mask=mask_N11T)
        content_NSD = content_NHSC.transpose(1, 2).flatten(2)
        if self.own is not None:
            content_NSD = content_NSD + self.own(state_NTW, mask_N11T, self.query_SD)
        if self.pointers is not None:
            key_NTD = k_NHTC.transpose(1, 2).flatten(2)
            word_NTV = (embedding_NE.unflatten(-1, (-1, self.token_dim)) - self.mean_W)[..., : self.pointers.width]
            content_NSD = torch.cat([content_NSD, self.pointers(key_NTD, word_NTV, real_NT)], dim=-1)
        return content_NSD.flatten(1)

    def shared(self, state_NTW: Tensor) -> Tensor:
        """The part of a token's state that all sites read."""
        if self.own is None:
            return state_NTW
        return state_NTW.unflatten(-1, (-1, self.own.state_dim))[..., self.shared_states, :].flatten(-2)


class SiteHead(nn.Module):
    """From the content of every site to A and B: a shared MLP under each site's own gates, then two kinds of map.

    What lives in the residual stream (A of the modules that read it, B of those that write it) has one map a module
    group, shared by the layers, as they share that space. What lives inside a layer has a map of its own a layer,
    through a bottleneck of Z. Both are added to a learned static LoRA: A begins as LoRA's usual start plus a little
    of the generated part, B at zero, so training begins exactly at the base.

    Args:
        model_dim: D.
        bottleneck: Z.
        point_dim: V, where what lives in the residual stream also gets the words that a site points at, under gates
            that begin at zero.

    Raises:
        T2LError: V is not the width of the residual stream.
    """

    def __init__(self, spec: LoraSpec, model_dim: int, bottleneck: int, point_dim: int | None = None) -> None:
        super().__init__()
        widths = {group.out_features if writes_to_residual(group) else group.in_features for group in spec.groups}
        if point_dim is not None and widths != {point_dim}:
            raise T2LError(
                f"The words that sites point at have {point_dim} numbers, the base's residual stream "
                f"{', '.join(map(str, sorted(widths)))}.",
                "Read the description with the states of the base itself (encoder.model).",
            )
        self.spec, self.model_dim, self.bottleneck = spec, model_dim, bottleneck
        sites = len(site_layers(spec))
        self.gain_SD = nn.Parameter(torch.ones(sites, model_dim))
        self.shift_SD = nn.Parameter(torch.zeros(sites, model_dim))
        self.mlp = nn.Sequential(
            nn.LayerNorm(model_dim), nn.Linear(model_dim, 2 * model_dim), nn.SiLU(), nn.Linear(2 * model_dim, model_dim)
        )
        self.norm = nn.LayerNorm(model_dim)
        self.gate_SD = nn.Parameter(torch.ones(sites, model_dim))
        self.maps = nn.ModuleDict(
            {
                group.key: _GroupMaps(group, spec.rank, model_dim, bottleneck, point_dim is not None)
                for group in spec.groups
            }
        )

    def forward(self, task_NK: Tensor) -> LoraWeights:
        """LoRA weights from task features."""
        task_NSK = task_NK.unflatten(-1, (len(self.gain_SD), -1))
        content_NSD = task_NSK[..., : self.model_dim] * self.gain_SD + self.shift_SD
        state_NSD = content_NSD + self.mlp(content_NSD)
        state_NSD = self.norm(F.dropout(state_NSD, DROPOUT, self.training)) * self.gate_SD
        sizes = [len(group.layers) * self.spec.rank for group in self.spec.groups]
        a, b = {}, {}
        parts = zip(state_NSD.split(sizes, dim=1), task_NSK[..., self.model_dim :].split(sizes, dim=1), strict=True)
        for group, (part_NSD, word_NSV) in zip(self.spec.groups, parts, strict=True):
            by_layer = (1, (-1, self.spec.rank))
            state_NLRD = part_NSD.unflatten(*by_layer).contiguous()  # or torch copies the maps for every sample
            a[group.key], b[group.key] = self.maps[group.key](state_NLRD, word_NSV.unflatten(*by_layer))
        return LoraWeights(a, b)

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Initial parameters beside those of the linear layers."""
        self.gain_SD.normal_(1.0, 0.1, generator=generator)
        self.shift_SD.normal_(0.0, 0.1, generator=generator)
        self.gate_SD.normal_(1.0, 0.5, generator=generator)  # sites must differ, or their gradients cancel
        for maps in self.maps.values():
            maps.start(generator)  # type: ignore[operator]


class _GroupMaps(nn.Module):
    """A and B of one module group from the states of its sites."""

    def __init__(self, group: ModuleGroup, rank: int, model_dim: int, bottleneck: int, pointing: bool) -> None:
        super().__init__()
        depth = len(group.layers)
        self.writes = writes_to_residual(group)
        self.shared_features = group.out_features if self.writes else group.in_features
        self.inner_features = group.in_features if self.writes else group.out_features
        self.shared = nn.Linear(model_dim, self.shared_features, bias=False)
        self.squeeze = nn.Linear(model_dim, bottleneck, bias=False)
        self.own_LZF = nn.Parameter(torch.zeros(depth, bottleneck, self.inner_features))
        self.static_a_LRI = nn.Parameter(torch.zeros(depth, rank, group.in_features))
        self.static_b_LRO = nn.Parameter(torch.zeros(depth, rank, group.out_features))
        self.point_LR = nn.Parameter(torch.zeros(depth, rank)) if pointing else None
        self.point_F = nn.Parameter(torch.zeros(self.shared_features)) if pointing else None
        self.in_features = group.in_features

    def forward(self, state_NLRD: Tensor, word_NLRV: Tensor) -> tuple[Tensor, Tensor]:
        shared_NLRF = self.shared(state_NLRD) * (GAIN / self.shared.in_features)
        if self.point_LR is not None and self.point_F is not None:
            shared_NLRF = shared_NLRF + word_NLRV * (1 + self.point_F) * (_POINTED * self.point_LR[..., None])
        squeezed_LKZ = self.squeeze(state_NLRD).transpose(0, 1).flatten(1, 2)  # K: the ranks of all samples
        own_LKF = squeezed_LKZ @ self.own_LZF.to(squeezed_LKZ.dtype) * (GAIN / self.squeeze.out_features)
        own_NLRF = own_LKF.unflatten(1, (len(state_NLRD), -1)).transpose(0, 1)
        a_NLRI, b_NLRO = (own_NLRF, shared_NLRF) if self.writes else (shared_NLRF, own_NLRF)
        return self.static_a_LRI + a_NLRI, (self.static_b_LRO + b_NLRO).mT

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        bound = 1 / math.sqrt(self.in_features)
        self.static_a_LRI.uniform_(-bound, bound, generator=generator)
        self.static_b_LRO.zero_()
        for gate in (self.point_LR, self.point_F):
            if gate is not None:
                gate.zero_()
        generated, written = (self.own_LZF, self.shared.weight) if self.writes else (self.shared.weight, self.own_LZF)
        fan_in = self.squeeze.out_features if self.writes else self.shared.in_features
        generated.normal_(0.0, _GENERATED_A * bound * math.sqrt(fan_in) / GAIN, generator=generator)
        written.zero_()


class _OwnLayers(nn.Module):
    """What each site attends to in the states that its own layer sees; maps are shared by the layers.

    Args:
        state_dim: V.
        site_layer_S: the layer of each site.
        model_dim: D.
    """

    def __init__(self, state_dim: int, site_layer_S: Sequence[int], model_dim: int) -> None:
        super().__init__()
        self.state_dim = state_dim
        self.heads = model_dim // HEAD_CHANNELS
        self.sites = {layer: [s for s, own in enumerate(site_layer_S) if own == layer] for layer in set(site_layer_S)}
        order = [site for sites in self.sites.values() for site in sites]
        self.place_S = sorted(range(len(order)), key=order.__getitem__)  # of each site among those, layer after layer
        self.enter = nn.Linear(state_dim, model_dim)
        self.layer = new_embedding(1 + max(site_layer_S), model_dim)
        self.norm = nn.LayerNorm(model_dim)
        self.to_kv = nn.Linear(model_dim, 2 * model_dim)
        self.key_norm = nn.LayerNorm(HEAD_CHANNELS)

    def forward(self, state_NTW: Tensor, mask_N11T: Tensor, query_SD: Tensor) -> Tensor:
        """Content (N, S, D)."""
        state_NTJV = state_NTW.unflatten(-1, (-1, self.state_dim))[:, :, : self.layer.num_embeddings]
        x_NTJD = F.gelu(self.enter(state_NTJV) + _POSITION_SCALE * self.layer.weight)
        k_NJHTC, v_NJHTC = self.to_kv(self.norm(x_NTJD)).unflatten(-1, (2, self.heads, -1)).permute(3, 0, 2, 4, 1, 5)
        k_NJHTC = self.key_norm(k_NJHTC).to(v_NJHTC.dtype)
        q_HSC = query_SD.unflatten(-1, (self.heads, -1)).transpose(0, 1).to(v_NJHTC.dtype)
        parts = []
        for layer, sites in self.sites.items():
            q_NHSC = q_HSC[:, sites].expand(len(k_NJHTC), -1, -1, -1)
            k_NHTC, v_NHTC = k_NJHTC[:, layer], v_NJHTC[:, layer]
            content_NHSC = F.scaled_dot_product_attention(q_NHSC, k_NHTC, v_NHTC, attn_mask=mask_N11T)
            parts.append(content_NHSC.transpose(1, 2).flatten(2))
        return torch.cat(parts, dim=1)[:, self.place_S]


class _Pointers(nn.Module):
    """The words that each site points at: a mean of their input embeddings, each of length 1.

    The way that a word of the description takes into the residual stream as it is, through no learned map, so that a
    label which no training task had can be written (a base ties or nearly ties what it reads to what it writes). A
    site can point at nothing.

    Args:
        width: V.
        sites: S.
        model_dim: D.
    """

    def __init__(self, width: int, sites: int, model_dim: int) -> None:
        super().__init__()
        self.width = width
        self.query_SD = nn.Parameter(torch.zeros(sites, model_dim))
        self.nothing_S = nn.Parameter(torch.zeros(sites))

    def forward(self, key_NTD: Tensor, word_NTV: Tensor, real_NT: Tensor) -> Tensor:
        """Embeddings (N, S, V)."""
        query_SD = self.query_SD.to(key_NTD.dtype) * (_POINTER_QUERY / math.sqrt(HEAD_CHANNELS))
        score_NST = query_SD @ key_NTD.mT
        score_NST = score_NST.masked_fill(~real_NT[:, None], -math.inf)
        nothing_NS1 = self.nothing_S.to(score_NST.dtype)[:, None].expand(len(score_NST), -1, 1)
        share_NST = torch.cat([score_NST, nothing_NS1], dim=-1).softmax(dim=-1)[..., :-1]
        return share_NST @ F.normalize(word_NTV.float(), dim=-1).to(share_NST.dtype)


class _ReaderLayer(nn.Module):
    """A pre-norm transformer layer over the tokens of each description, in both directions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_CHANNELS
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x_NTD: Tensor, mask_N11T: Tensor) -> Tensor:
        q_NHTC, k_NHTC, v_NHTC = (
            self.to_qkv(self.norm1(x_NTD)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        mixed_NHTC = F.scaled_dot_product_attention(q_NHTC, k_NHTC, v_NHTC, attn_mask=mask_N11T)
        x_NTD = x_NTD + F.dropout(self.out(mixed_NHTC.transpose(1, 2).flatten(2)), DROPOUT, self.training)
        return x_NTD + F.dropout(self.mlp(self.norm2(x_NTD)), DROPOUT, self.training)
