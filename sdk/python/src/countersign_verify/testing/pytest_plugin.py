"""The pytest plugin. pytest loads it in every run, so that it imports little by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from . import TestGateway


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of pytest's configuration."""
    parser.addini("countersign_audience", "audience of the fixture countersign_gateway", default="")


@pytest.fixture(scope="session")
def countersign_gateway(pytestconfig: pytest.Config) -> TestGateway:
    """Return a gateway for tests, whose audience is the option `countersign_audience`."""
    from . import TestGateway  # noqa: PLC0415 - only where it is used

    audience = str(pytestconfig.getini("countersign_audience"))
    if not audience:
        raise pytest.UsageError("set countersign_audience in pytest's configuration")
    return TestGateway(audience=audience)
