"""Errors say what is wrong and what to do; names that are nearly right are offered."""

from __future__ import annotations

import pytest

from t2l import errors
from t2l.errors import T2LError, did_you_mean


def test_an_error_is_its_message_and_its_fix() -> None:
    error = T2LError("The rank is 0.", "Give 8.")
    assert (str(error), error.message, error.fix) == ("The rank is 0.\nGive 8.", "The rank is 0.", "Give 8.")
    assert str(T2LError("The rank is 0.")) == "The rank is 0."


@pytest.mark.parametrize(
    "name", ["DescriptionError", "CheckpointError", "AdapterError", "BaseModelError", "OutputError"]
)
def test_every_leaf_is_caught_as_one_family(name: str) -> None:
    leaf = getattr(errors, name)
    with pytest.raises(T2LError, match="what"):
        raise leaf("what")
    with pytest.raises(ValueError, match="fix"):
        raise leaf("what", "fix")


def test_near_names_are_offered_and_otherwise_some_known_ones() -> None:
    known = ["q_proj", "k_proj", "v_proj", "gate"]
    assert did_you_mean("q_prj", known).startswith("Did you mean 'q_proj'")
    assert did_you_mean("zzz", known) == "Known: 'q_proj', 'k_proj', 'v_proj', 'gate'."
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("zzz", (f"module{i}" for i in range(20))).endswith("'module11', ....")
    assert did_you_mean("gat", ["gate", "gate"]) == "Did you mean 'gate'?"
