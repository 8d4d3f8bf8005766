"""Which kinds of encoder there are, found by entry point, so that another package can bring one.

Level 1. A package adds a kind with ``[project.entry-points."t2l.encoders"]`` in its pyproject.toml:
``my-kind = "my_package.module:MyEncoder"``, a subclass of `DescriptionEncoder`. The built-in kinds use the same door.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from t2l.encoders.encoder import DescriptionEncoder
from t2l.errors import EncoderError, did_you_mean

_GROUP = "t2l.encoders"
_BUILT_IN = {  # read where t2l runs from a source tree, without being installed; a test compares it to pyproject.toml
    "minilm": "t2l.encoders.minilm:MiniLmEncoder",
    "sentence-transformer": "t2l.encoders.sentence:SentenceTransformerEncoder",
    "base-model": "t2l.encoders.last_token:BaseModelEncoder",
    "token-states": "t2l.encoders.token_states:TokenStatesEncoder",
    "one-hot": "t2l.encoders.one_hot:OneHotEncoder",
}


def encoder_kinds() -> list[str]:
    """The names of all kinds, built-in and brought by other packages."""
    return sorted(_doors())


def encoder_from_config(
    config: Mapping[str, Any], *, folder: Path | None = None, device: str = "cpu", trust_remote_code: bool = False
) -> DescriptionEncoder:
    """The encoder that a checkpoint's config describes; loads no weights yet.

    Args:
        config: what `DescriptionEncoder.to_config` gave; ``kind`` says which encoder.
        folder: of the checkpoint whose config it is; files that the config names by a relative path lie there.
        device: where the encoder runs.
        trust_remote_code: let code from the hub run in this process. Never read from a config.

    Raises:
        EncoderError: the kind is unknown (near names are offered) or its fields do not fit.

    Example:
        >>> encoder_from_config({"kind": "minilm"}).dim
        384
    """
    kind = config.get("kind") if isinstance(config, Mapping) else None
    if not isinstance(kind, str):
        raise EncoderError(f"An encoder's config is an object with a 'kind'; this one is {str(config)[:80]!r}.")
    if folder is not None and isinstance(config.get("adapter"), str):
        if Path(config["adapter"]).name != config["adapter"]:
            raise EncoderError(f"A checkpoint's encoder names an adapter outside its folder: '{config['adapter']}'.")
        config = {**config, "adapter": str(folder / config["adapter"])}
    doors = _doors()
    if kind not in doors:
        raise EncoderError(f"No encoder is of kind '{kind}'.", did_you_mean(kind, sorted(doors)))
    try:
        encoder_class = doors[kind].load()
    except (ImportError, AttributeError) as problem:
        raise EncoderError(f"The encoder '{kind}' ({doors[kind].value}) cannot be imported: {problem}.") from problem
    return encoder_class.from_config(config, device=device, trust_remote_code=trust_remote_code)


def _doors() -> dict[str, EntryPoint]:
    doors = {kind: EntryPoint(kind, value, _GROUP) for kind, value in _BUILT_IN.items()}
    return doors | {point.name: point for point in entry_points(group=_GROUP)}
