import sys
from importlib import import_module

import pytest

from benchmarks.__main__ import BENCHMARKS, main


def test_each_benchmark_is_listed_and_can_be_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    main()
    listed = capsys.readouterr().out
    for name, (module, measures) in BENCHMARKS.items():
        assert f"  {name} " in listed and measures in listed
        assert callable(import_module(f"benchmarks.{module}").main)


def test_a_benchmark_has_its_own_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "launcher", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "usage: python -m benchmarks launcher" in capsys.readouterr().out


def test_an_unknown_benchmark_is_answered_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "lunch"])
    with pytest.raises(SystemExit, match=r"no benchmark 'lunch'; there are:\n  launcher"):
        main()
