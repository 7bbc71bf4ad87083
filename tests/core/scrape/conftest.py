"""What tests of the web share."""

from __future__ import annotations

import pytest


@pytest.fixture
def hosts() -> tuple[str, ...]:
    return tuple(f"photos{number}.test" for number in range(4))
