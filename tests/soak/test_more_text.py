"""tests/test_any_text.py with as many examples as `soak` in tests/conftest.py says, other ones each time."""

import pytest

from tests.test_any_text import *  # noqa: F403

pytestmark = pytest.mark.soak
