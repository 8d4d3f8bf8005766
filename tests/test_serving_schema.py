"""Property tests of the HTTP server against its own OpenAPI schema: what schemathesis makes of it breaks nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from helpers import tiny_pair
from live_server import live
from t2l.serving.engine import Engine, Limits
from t2l.serving.http import HttpOptions, create_app

NAMES = ["task 0", "task 1"]
OPERATIONS = {
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /v1/adapters",
    "POST /v1/adapters/combine",
    "GET /v1/adapters",
    "GET /v1/adapters/{adapter}",
    "GET /v1/adapters/{adapter}/download",
    "DELETE /v1/adapters/{adapter}",
    "GET /healthz",
    "GET /metrics",
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    engine = Engine(*tiny_pair(NAMES), Limits(slots=4, context=40, max_tokens=4, max_waiting=100, timeout_s=60))
    with live(engine, HttpOptions(drain_s=0)) as where:
        yield where


def operations() -> dict[str, Any]:
    """Every operation of the schema, by method and path; making the schema needs no engine."""
    stand_in: Any = type("NoEngine", (), {"stats": dict})()
    schema = schemathesis.openapi.from_dict(create_app(stand_in).openapi())
    found = [one.ok() for one in schema.get_all_operations()]
    return {f"{one.method.upper()} {one.path}": one for one in found}


FOUND = operations()


def test_the_schema_names_every_route_and_the_shape_of_errors() -> None:
    assert set(FOUND) >= OPERATIONS
    for operation in FOUND.values():
        responses = operation.definition.raw["responses"]
        assert "422" not in responses  # a misshapen request is a 400, as in OpenAI's API
        for status in ("4XX", "5XX"):
            content = responses[status]["content"]["application/json"]
            assert content["schema"]["$ref"].endswith("/ErrorReply")


@pytest.mark.parametrize("name", sorted(FOUND))
def test_whatever_the_schema_allows_and_what_it_does_not_is_answered_by_the_schema(name: str, address: str) -> None:
    """No 500, no status, content type or body that the schema does not name; what it forbids is refused."""
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
        schemathesis.specs.openapi.checks.negative_data_rejection,
    ]
    operation = FOUND[name]
    modes = [schemathesis.GenerationMode.POSITIVE]
    if operation.body or operation.query:  # a part of a path is text, and all text is allowed
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    for mode in modes:

        @settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: Any) -> None:
            response = case.call(base_url=address)
            case.validate_response(response, checks=checks)

        holds()
