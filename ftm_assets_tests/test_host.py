from pathlib import Path

from ftm_assets.host import cores_and_memory


def test_a_container_may_use_what_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{1 << 30}\n")
    assert cores_and_memory(tmp_path) == (1, 1 << 30)


def test_without_limits_it_is_the_whole_cores_and_memory(tmp_path: Path) -> None:
    whole = cores_and_memory(tmp_path / "absent")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert cores_and_memory(tmp_path) == whole
    assert whole[0] >= 1 and whole[1] > 1 << 28
