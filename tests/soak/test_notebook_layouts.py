"""Both Kaggle notebooks in full, in each layout in which their input may be mounted, from zips and from folders."""

import pytest

from tests.test_notebooks import LAYOUTS, flags, infer, kaggle, train_in_two_sessions  # noqa: F401    two are fixtures

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("packed", [False, True], ids=["folders", "zips"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sessions", [train_in_two_sessions, infer])
def test_a_whole_notebook(kaggle, made_once, empty, flags, sessions, layout, packed):  # noqa: F811
    sessions(kaggle, made_once, empty, flags, layout, packed)
