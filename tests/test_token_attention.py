"""The token task encoder: padding and batch companions change nothing, order and words do."""

from __future__ import annotations

import pytest
import torch

from t2l.errors import T2LError
from t2l.features import TokenTaskEncoder
from t2l.hypernet import HyperNetwork
from t2l.lora import LoraSpec, ModuleGroup

TOKENS, WIDTH = 7, 6
GROUP = ModuleGroup("q_proj", "model.layers.{layer}.self_attn.q_proj", (0, 1), 16, 16)


def encoder() -> TokenTaskEncoder:
    torch.manual_seed(0)
    return TokenTaskEncoder(TOKENS * WIDTH, WIDTH, out_features=5, model_dim=16).eval()


def padded(*lengths: int) -> torch.Tensor:
    state_NTW = torch.randn(len(lengths), TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    for row, length in enumerate(lengths):
        state_NTW[row, length:] = 0
    return state_NTW.flatten(1)


def test_a_description_gives_the_same_features_alone_and_beside_longer_ones() -> None:
    embedding_NE = padded(2, 7, 4)
    together_NK = encoder()(embedding_NE)
    for row in range(3):
        alone_1K = encoder()(embedding_NE[row : row + 1])
        torch.testing.assert_close(alone_1K[0], together_NK[row], atol=1e-5, rtol=1e-5)


def test_the_order_of_words_matters() -> None:
    state_1TW = padded(4).unflatten(-1, (TOKENS, WIDTH))
    swapped_1TW = state_1TW[:, [1, 0, 2, 3, 4, 5, 6]]
    assert (encoder()(state_1TW.flatten(1)) - encoder()(swapped_1TW.flatten(1))).abs().max() > 1e-3


def test_the_scale_of_an_embedding_does_not_matter() -> None:
    embedding_NE = padded(3, 5)
    torch.testing.assert_close(encoder()(embedding_NE), encoder()(7 * embedding_NE), atol=1e-3, rtol=1e-3)


def test_training_leaves_words_out_but_never_all() -> None:
    torch.manual_seed(0)
    reader = encoder().train()
    assert torch.isfinite(reader(padded(*[1] * 200))).all()
    assert not torch.equal(reader(padded(7)), reader(padded(7)))


def test_an_embedding_that_is_no_whole_number_of_tokens_is_refused() -> None:
    with pytest.raises(T2LError, match="not a whole number of token states of width 6"):
        TokenTaskEncoder(43, 6, 4)


def test_a_hypernetwork_reads_tokens_and_comes_back_from_its_config() -> None:
    spec = LoraSpec((GROUP,), num_layers=2)
    sizes = {"trunk_dim": 16, "head_dim": 8, "task_encoder": "tokens", "token_dim": WIDTH}
    hypernetwork = HyperNetwork(spec, TOKENS * WIDTH, **sizes).eval()  # pyright: ignore
    again = HyperNetwork.from_tensors(hypernetwork.to_config(), hypernetwork.state_dict(), source="here").eval()
    weights, same = hypernetwork(padded(3, 4)), again(padded(3, 4))
    torch.testing.assert_close(weights.a, same.a)
    features_NK = hypernetwork.encode(padded(3, 4))
    torch.testing.assert_close(hypernetwork.decode(features_NK).a, weights.a)
    with pytest.raises(T2LError, match="goes with 'tokens' alone"):
        HyperNetwork(spec, TOKENS * WIDTH, token_dim=WIDTH)
    with pytest.raises(T2LError, match="goes with 'tokens' alone"):
        HyperNetwork(spec, TOKENS * WIDTH, task_encoder="tokens")
