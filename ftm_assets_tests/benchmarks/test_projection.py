import pytest

from benchmarks.projection import BUSY, Box, project

RUN = {"n_runs": 100, "cpu_s": {"lanes": 80.0, "Postgres": 20.0}, "ingest_s": 5.0}
THEMES = {"cpu_s": 60.0, "n_topics": 90_000}
MODEL = "all-mpnet-base-v2"


def box(**changes: float) -> Box:
    """A machine that is like the one that measured, with one core and one V100."""
    plain = {"cores": 1, "speed": 1.0, "v100s": 1.0, "reached": 1.0, "spot_hour": 1.0, "list_hour": 2.0}
    return Box("box", **{**plain, **changes})  # type: ignore[arg-type]


def test_the_slower_of_cpu_and_card_decides_how_long_firms_take() -> None:
    slow_card = project(box(cores=1000, v100s=0.001), MODEL, 1000, 450, RUN, THEMES)
    slow_cpu = project(box(), MODEL, 1000, 450, RUN, THEMES)
    assert slow_card.bottleneck == "encoding"
    assert slow_cpu.bottleneck == "CPU of firms"
    assert slow_cpu.cpu_s == pytest.approx(1000 / BUSY)
    for each in (slow_card, slow_cpu):
        beside = each.start_s + each.load_s + each.themes_s
        assert each.total_s == pytest.approx(beside + max(each.cpu_s, each.encode_s))


def test_an_hour_costs_what_the_box_costs() -> None:
    projected = project(box(), MODEL, 1000, 450, RUN, THEMES)
    assert projected.dollars == pytest.approx(projected.total_s / 3600)
    assert projected.dollars_list == pytest.approx(2 * projected.dollars)


def test_twice_the_cores_halve_the_time_of_firms() -> None:
    one, two = (project(box(cores=cores), MODEL, 1000, 450, RUN, THEMES) for cores in (1, 2))
    assert two.cpu_s == pytest.approx(one.cpu_s / 2)
