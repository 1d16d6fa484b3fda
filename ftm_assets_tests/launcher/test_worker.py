import pytest

from ftm_assets.launcher.worker import preload_module


def test_the_former_name_of_the_preloaded_module_is_understood_and_its_new_one_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert preload_module("ftm_assets.warm") == "ftm_assets.preload"
    assert caplog.messages == ["FTM_PRELOAD=ftm_assets.warm is now called ftm_assets.preload; change or unset it"]


def test_a_module_of_the_users_choice_is_preloaded(caplog: pytest.LogCaptureFixture) -> None:
    assert preload_module("mine.preload") == "mine.preload"
    assert caplog.messages == []
