"""From task descriptions to description embeddings: the encoders, how they are named and found, and the disk cache.

Level 1. Nothing here knows about adapters or hypernetworks, and importing it loads neither weights nor transformers.
"""

from t2l.encoders.cache import CachedEncoder, EmbeddingCache, default_cache_folder
from t2l.encoders.description import MAX_DESCRIPTION_CHARS, prepare, with_examples
from t2l.encoders.encoder import DescriptionEncoder, EncodingProgress
from t2l.encoders.last_token import BaseModelEncoder
from t2l.encoders.minilm import MiniLmEncoder
from t2l.encoders.one_hot import OneHotEncoder
from t2l.encoders.registry import encoder_from_config, encoder_kinds
from t2l.encoders.sentence import SentenceTransformerEncoder
from t2l.encoders.token_states import TokenStatesEncoder

__all__ = [
    "MAX_DESCRIPTION_CHARS",
    "BaseModelEncoder",
    "CachedEncoder",
    "DescriptionEncoder",
    "EmbeddingCache",
    "EncodingProgress",
    "MiniLmEncoder",
    "OneHotEncoder",
    "SentenceTransformerEncoder",
    "TokenStatesEncoder",
    "default_cache_folder",
    "encoder_from_config",
    "encoder_kinds",
    "prepare",
    "with_examples",
]
