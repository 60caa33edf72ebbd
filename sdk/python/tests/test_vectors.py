"""The vectors that all packages share."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from countersign_verify import (
    AssertionRefused,
    AssertionVerifier,
    Caller,
    RequestParts,
    only_assertion,
)
from support import PACKAGE, Clock, lacking

FILE = PACKAGE.parent / "vectors" / "vectors.json"


def _load(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {"version": 1, "key_sets": {}, "cases": []}
    vectors: dict[str, Any] = json.loads(file.read_bytes())
    return vectors


VECTORS = _load(FILE)


def test_the_vectors_are_there() -> None:
    if not VECTORS["cases"]:
        lacking("sdk/vectors/vectors.json")
    assert VECTORS["version"] == 1


@pytest.mark.parametrize(
    "case", VECTORS["cases"], ids=[f"{case['rule']}: {case['name']}" for case in VECTORS["cases"]]
)
def test_vector(case: dict[str, Any]) -> None:
    expected = case["expect"]
    if "code" in expected:
        with pytest.raises(AssertionRefused) as refused:
            _verify(case)
        assert refused.value.code == expected["code"]
        return
    caller = _verify(case)
    assert caller.sub == expected["sub"]
    assert caller.trust_domain == expected["trust_domain"]
    assert caller.is_request_bound == expected["request_bound"]
    _contains(dict(caller.claims), expected["claims"])


def _verify(case: dict[str, Any]) -> Caller:
    request = case["request"]
    verifier = AssertionVerifier(
        keys=VECTORS["key_sets"][case["key_set"]], clock=Clock(case["now"]), **case["options"]
    )
    body = request["body"]
    token = only_assertion(case["assertions"])
    return verifier.verify(
        token,
        RequestParts(request["method"], request["hosts"], request["target"]),
        body=None if body is None else base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)),
    )


def _contains(found: object, expected: object) -> None:
    """Check that all expected members are there, in nested objects too."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        for name, value in expected.items():
            _contains(found.get(name), value)
    else:
        assert found == expected
