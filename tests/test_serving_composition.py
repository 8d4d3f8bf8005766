"""Adapters from adapters over HTTP: the sums are those of `t2l.composition`, and what is wrong is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from live_server import refused, user
from t2l import composition
from t2l.adapter import Adapter
from t2l.serving.engine import Engine, Limits
from t2l.serving.maker import Combination
from t2l.serving.sampling import Sampling

NAMES = [f"task {number}" for number in range(12)]
LIMITS = Limits(slots=4, context=120, max_tokens=60, timeout_s=60)


def test_parts_are_weighted_summed_and_blended(raw: httpx.Client, server: Any, world: Any, tmp_path: Path) -> None:
    engine, t2l = server[1], world[1]
    one, two = (made.adapter for made in engine.make(NAMES[5:7]).result(30))
    two_id = engine.make([NAMES[6]]).result(30)[0].kept.id

    def combined(**body: Any) -> tuple[dict[str, Any], Adapter]:
        response = raw.post("/v1/adapters/combine", json=body)
        assert response.status_code == 201, response.text
        told = response.json()
        assert told["id"] in {entry["id"] for entry in raw.get("/v1/adapters?limit=1000").json()["data"]}
        assert raw.get(f"/v1/adapters/{told['id']}").json()["composition"] == told["composition"]
        download = raw.get(f"/v1/adapters/{told['id']}/download").content
        zipfile.ZipFile(io.BytesIO(download)).extractall(tmp_path)
        return told, Adapter.load(tmp_path / told["id"])

    def same(adapter: Adapter, other: Adapter) -> None:
        for path in other.spec.module_paths():
            torch.testing.assert_close(adapter.delta(path), other.delta(path), rtol=1e-4, atol=1e-5)

    parts = {"parts": [NAMES[5], two_id]}
    told, exact = combined(**parts, weights=[1, -1], method="cat")
    same(exact, composition.combine([one, two], [1, -1]))
    assert told["rank"] == 4 and "not asked" in told["warnings"][0]
    assert told["id"] not in {model["id"] for model in raw.get("/v1/models").json()["data"]}
    refusal = raw.post("/v1/completions", json={"model": told["id"], "prompt": "x"})
    assert "method svd" in refused(refusal, 400)["message"]

    told, nearest = combined(**parts, weights=[1, -1])
    wanted = composition.combine([one, two], [1, -1], method="svd", rank=2)
    same(nearest, wanted)
    assert told["rank"] == 2 and told["composition"]["kept"] == wanted.provenance["composition"]["kept"]
    assert "method 'cat' is exact" in told["warnings"][0] and told["description"] == ""
    body = {"model": told["id"], "messages": user("red"), "temperature": 0, "max_tokens": 8}
    said = raw.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert said == engine.chat("red", Sampling(max_tokens=8), adapter=engine.adapters.get(told["id"])).text
    assert combined(**parts, weights=[1, -1])[0]["cached"]

    same(combined(**parts, method="factors")[1], composition.combine([one, two], method="factors"))
    same(combined(**parts, rank=1)[1], composition.combine([one, two], method="svd", rank=1))
    same(combined(parts=NAMES[5:7], method="features")[1], t2l.blend(NAMES[5:7]))
    same(combined(parts=NAMES[5:7], weights=[1.5, -0.5], method="features")[1], t2l.blend(NAMES[5:7], [1.5, -0.5]))
    assert combined(parts=[two_id])[0]["id"] == two_id


def test_a_weaker_adapter_is_not_taken_for_its_description(raw: httpx.Client, server: Any) -> None:
    whole = raw.post("/v1/adapters", json={"description": NAMES[7]}).json()["data"][0]
    raw.delete(f"/v1/adapters/{whole['id']}")
    half = raw.post("/v1/adapters/combine", json={"parts": [NAMES[7]], "weights": [0.5]}).json()
    assert half["strength"] == 0.5 and half["id"] != whole["id"] and half["description"] == NAMES[7]
    raw.delete(f"/v1/adapters/{whole['id']}")
    again = raw.post("/v1/adapters", json={"description": NAMES[7]}).json()["data"][0]
    assert again["id"] == whole["id"] and not again["cached"]


def test_a_strength_goes_from_the_base_to_the_adapter_and_beyond(raw: httpx.Client, server: Any) -> None:
    engine = server[1]

    def ask(**changes: Any) -> str:
        body = {"messages": user("red"), "temperature": 0, "max_tokens": 12, **changes}
        response = raw.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]["content"]

    half = raw.post("/v1/adapters/combine", json={"parts": [NAMES[8]], "weights": [0.5]}).json()["id"]
    base, whole = ask(), ask(task_description=NAMES[8])
    assert ask(task_description=NAMES[8], strength=0) == base != whole == ask(task_description=NAMES[8], strength=1)
    assert ask(task_description=NAMES[8], strength=0.5) == ask(model=half)
    assert len({ask(task_description=NAMES[8], strength=strength) for strength in (-2, 0, 0.5, 1, 3)}) > 2
    text = {"prompt": "red", "temperature": 0, "max_tokens": 12, "task_description": NAMES[8]}
    strong = raw.post("/v1/completions", json={**text, "strength": 2}).json()["choices"][0]["text"]
    (made,) = engine.make([NAMES[8]]).result(30)
    twice = composition.scale(made.adapter, 2)
    tokens = engine.base.tokenizer("red")["input_ids"]
    assert strong == engine.submit(tokens, Sampling(max_tokens=12), adapter=twice).result(30).text
    assert refused(raw.post("/v1/completions", json={"prompt": "x", "strength": 2}), 400)["param"] == "strength"
    for wrong in ("NaN", "Infinity", '"much"'):
        data = f'{{"prompt": "x", "task_description": "{NAMES[8]}", "strength": {wrong}}}'
        response = raw.post("/v1/completions", content=data, headers={"content-type": "application/json"})
        assert refused(response, 400)["param"] == "strength"


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({}, 400, "parts"),
        ({"parts": []}, 400, "no part"),
        ({"parts": [NAMES[0]] * 17}, 400, "16 may be sent"),
        ({"parts": NAMES[:2], "weights": [1]}, 400, "1 weights for 2 parts"),
        ({"parts": NAMES[:2], "weights": [1, "x"]}, 400, "weights"),
        ({"parts": NAMES[:2], "weights": [1e300, 1e300]}, 400, "not finite numbers"),
        ({"parts": NAMES[:2], "method": "svdd"}, 400, "Did you mean 'svd'"),
        ({"parts": NAMES[:2], "method": "cat", "rank": 2}, 400, "no effect"),
        ({"parts": NAMES[:2], "rank": 0}, 400, "at least 1"),
        ({"parts": NAMES[:2], "rank": 10**9}, 400, "4 together"),
        ({"parts": ["t2l-" + "0" * 24]}, 404, "no adapter"),
        ({"parts": ["t2l-short"]}, 404, "no adapter"),
        ({"parts": ["t2l-" + "0" * 24], "method": "features"}, 400, "Only descriptions"),
        ({"parts": ["no such task"]}, 400, "no such task"),
        ({"parts": ["no such task"], "method": "features"}, 400, "no such task"),
        ({"parts": [" "]}, 400, "blank"),
        ({"parts": [NAMES[0]], "weight": [1]}, 400, "weight"),
    ],
)
def test_combinations_that_are_refused(raw: httpx.Client, body: Any, status: int, part: str) -> None:
    assert part in refused(raw.post("/v1/adapters/combine", json=body), status)["message"]


def test_combinations_of_combinations_are_bounded(raw: httpx.Client) -> None:
    """Ranks and provenances would otherwise grow with every step, by requests that are small themselves."""
    part, refusals = NAMES[9], []
    for step in range(6):
        body = {"parts": [part] * 16, "weights": [0.01 * (step + 1)] * 16, "method": "cat" if step < 2 else "svd"}
        response = raw.post("/v1/adapters/combine", json=body)
        if response.status_code != 201:
            refusals.append(refused(response, 400)["message"])
            body["parts"] = [NAMES[9]] * 15 + [NAMES[10]]
            body["method"] = "svd"
            response = raw.post("/v1/adapters/combine", json=body)
        part = response.json()["id"]
        assert len(response.content) < 300_000
    assert any("32 may be combined" in told for told in refusals)
    for _ in range(5):
        response = raw.post("/v1/adapters/combine", json={"parts": [part] * 16, "weights": [0.06] * 16})
        if response.status_code != 201:
            break
        part = response.json()["id"]
    assert "too many adapters" in refused(response, 400)["message"]


def test_what_was_combined_survives_a_restart(world: Any, tmp_path: Path) -> None:
    wanted = Combination(NAMES[:2], [1, -1])
    with Engine(*world, Limits(slots=2, context=64), store=tmp_path) as engine:
        first = engine.combine(wanted).result(30)
        half = engine.combine(Combination([NAMES[0]], [0.5])).result(30)
        assert first.kept.stored and not first.cached
    with Engine(*world, Limits(slots=2, context=64), store=tmp_path) as engine:
        kept = engine.adapters.entry(first.kept.id)
        assert kept.composition == first.kept.composition and kept.rank == 2 and not engine.adapters.store_errors
        assert engine.combine(wanted).result(30).cached
        assert engine.adapters.entry(half.kept.id).strength == 0.5
        assert engine.adapters.find(NAMES[0]).strength == 1.0
