from __future__ import annotations

import pytest

from countersign_verify.testing import TestGateway
from support import NOW, Clock

pytest_plugins = ["pytester"]


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def gateway(clock: Clock) -> TestGateway:
    """A gateway whose clock stands still."""
    return TestGateway(audience="orders", issuer="https://gateway.example.org:9080", clock=clock)


@pytest.fixture(scope="session")
def live_gateway() -> TestGateway:
    """A gateway with the clock of the system, for servers in other processes."""
    return TestGateway(audience="orders", issuer="https://gateway.example.org:9080")
