"""The one-hot encoder: a condition without language, one direction for each known task.

Level 1. The control of Text-to-LoRA (arXiv 2506.06105): what a hypernetwork learns when descriptions carry nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from t2l.encoders.encoder import DescriptionEncoder, read_fields
from t2l.errors import DescriptionError, EncoderError, did_you_mean


class OneHotEncoder(DescriptionEncoder):
    """A row of the identity matrix for each task name (E = number of names); not scaled, as in the reference.

    Args:
        names: the known tasks; their order is the order of the axes.

    Raises:
        EncoderError: no name, a name twice, or one that is not text.
    """

    full_stop: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    def __init__(self, names: Sequence[str]) -> None:
        strange = [name for name in names if not isinstance(name, str)]
        if strange:
            raise EncoderError(f"Task names must be text; these are not: {strange[:4]}.")
        self.names = [name.strip() for name in names]
        repeated = [name for name, times in Counter(self.names).items() if times > 1]
        if not self.names or repeated:
            raise EncoderError(f"Task names repeat: {repeated}." if repeated else "A one-hot encoder needs task names.")
        self._index = {name: index for index, name in enumerate(self.names)}

    @property
    def identity(self) -> str:
        return f"one-hot/{hashlib.sha256(json.dumps(self.names).encode()).hexdigest()[:16]}"

    @property
    def dim(self) -> int:
        return len(self.names)

    def to_config(self) -> dict[str, Any]:
        return {"kind": "one-hot", "names": list(self.names)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, device: str, trust_remote_code: bool) -> OneHotEncoder:
        return cls(**read_fields(config, "one-hot", names=(list, tuple)))

    def embed(self, texts: Sequence[str]) -> Tensor:
        for text in texts:
            if text not in self._index:
                raise DescriptionError(
                    f"'{text[:80]}' is not one of the {len(self.names)} tasks that this one-hot encoder knows.",
                    did_you_mean(text, self.names),
                )
        return F.one_hot(torch.tensor([self._index[text] for text in texts]), self.dim).float()
