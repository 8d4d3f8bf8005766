"""The table of training conditions: what comes out is what the encoder gave, to half precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from t2l.encoders import MiniLmEncoder
from t2l.errors import T2LError
from t2l.world.conditions import DescriptionTable

TEXTS = [["add three", "increase the number by 3"], ["drop the last word", "leave out the final word of the phrase"]]


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
def test_a_table_gives_back_what_the_encoder_gave(pooling: str, tmp_path: Path) -> None:
    encoder = MiniLmEncoder(pooling)
    seen: list[tuple[int, int]] = []
    table = DescriptionTable.embed(encoder, TEXTS, lambda done, total: seen.append((done, total)))
    assert len(table) == 2 and seen[-1] == (4, 4)
    table.save(tmp_path / "table.safetensors")
    for kept in (table, DescriptionTable.load(tmp_path / "table.safetensors")):
        for task in range(2):
            expected_DE = encoder.encode(TEXTS[task])
            for description in range(2):
                found_E = kept.get(task, description)
                torch.testing.assert_close(found_E, expected_DE[description], atol=2e-2, rtol=2e-3)
    if pooling == "tokens":
        with pytest.raises(T2LError, match="do not stack"):
            table.rows_NDE()
    else:
        assert table.rows_NDE().shape == (2, 2, 384)


def test_draws_are_different_descriptions_of_the_task_while_they_last() -> None:
    table = DescriptionTable(torch.arange(1, 7).half()[:, None], range(7), count=3, width=1)

    def numbers(rows: Sequence[Tensor]) -> list[float]:
        return sorted(row.item() for row in rows)

    assert numbers(table.draw(Random(0), 1, 3)) == [4, 5, 6]
    assert len(table.draw(Random(0), 0, 5)) == 5
    assert numbers(table.draw(Random(1), 0, 2, descriptions=1)) == [1, 1]
