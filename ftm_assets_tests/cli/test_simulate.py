import subprocess
import sys
from pathlib import Path

import pytest

from ftm_assets.cli import simulate
from ftm_assets.cli.simulate import NotInClone
from ftm_assets_tests.cli.test_main import ftm


def test_the_old_name_of_the_fake_model_says_the_new_one_and_hands_on_its_options() -> None:
    command = "from ftm_assets.cli.main import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", command, "simulate-model", "--port", "8123", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "now `python -m devtools.fake_openai`" in result.stderr
    assert result.stdout.startswith("usage: python -m devtools.fake_openai")


def test_outside_of_a_clone_there_is_no_fake_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "_CLONE", tmp_path)
    with pytest.raises(NotInClone, match=r"only a clone of the project has it"):
        ftm("simulate-model")
