from pathlib import Path

import pytest
from sqlalchemy import make_url

from ftm_assets.settings import BadSetting, Settings, read_settings, with_database


def test_quarters_are_all_between_the_first_and_the_last() -> None:
    assert Settings(quarters="2021Q3:2022Q1").quarter_keys() == ["2021Q3", "2021Q4", "2022Q1"]


@pytest.mark.parametrize("value", ["2021", "2021Q5:2022Q1", "2022Q1:2021Q4", ""])
def test_a_range_that_is_none_is_refused_by_the_name_of_its_variable(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTM_QUARTERS", value)
    with pytest.raises(BadSetting, match=r"FTM_QUARTERS: .* is not a range of quarters such as 2015Q1:2027Q4"):
        read_settings()


def test_the_home_does_not_move_with_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTM_HOME", "here")
    assert read_settings().home == tmp_path / "here"


def test_passwords_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTM_DATABASE_URL", "postgresql://me:sesame@db/ftm")
    assert "sesame" not in repr(read_settings())


def test_another_database_of_the_same_server() -> None:
    assert with_database("postgresql://me:pw@db:5433/ftm?sslmode=require", "dagster") == (
        "postgresql://me:pw@db:5433/dagster?sslmode=require"
    )


@pytest.mark.parametrize("password", ["p[x", "p/x", "p#x", "p?x", "p:x", "p%40x"])
def test_no_password_hides_the_host(password: str) -> None:
    there = make_url(with_database(f"postgresql://me:{password}@db/ftm", "dagster"))
    assert (there.host, there.database, there.password) == ("db", "dagster", password.replace("%40", "@"))


@pytest.mark.parametrize("url", ["sesame", "postgresql://me:sesame@db:port/ftm", "postgresql://me:p@sesame@db/ftm"])
def test_what_is_no_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadSetting, match=r"FTM_DATABASE_URL .* the %XX form") as refused:
        with_database(url, "dagster")
    assert "sesame" not in str(refused.value)
