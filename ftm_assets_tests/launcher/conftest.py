"""One box for all tests that break it."""

from collections.abc import Iterator

import pytest

from ftm_assets_tests.launcher.stack import Box, running_box


@pytest.fixture(scope="package")
def shared_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with running_box(tmp_path_factory.mktemp("box") / ".ftm") as box:
        yield box


@pytest.fixture
def box(shared_box: Box) -> Iterator[Box]:
    """The box with daemon and webserver; a test says which worker it wants. At its end all must be in order."""
    shared_box.clean()
    shared_box.start("daemon")
    yield shared_box
    shared_box.clean()
    try:
        shared_box.check()
    except BaseException:
        shared_box.give_up()
        raise
