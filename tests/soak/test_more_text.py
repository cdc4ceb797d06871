"""tests/test_any_text.py with as many random examples as the Hypothesis profile `soak` says (tests/conftest.py)."""

import pytest

from tests.test_any_text import *  # noqa: F403

pytestmark = pytest.mark.soak
