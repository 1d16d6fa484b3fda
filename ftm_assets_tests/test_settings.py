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


def test_the_key_of_xai_goes_to_xai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_API_KEY", "sesame")
    key = read_settings().llm_api_key
    assert key is not None and key.get_secret_value() == "sesame"
    for elsewhere in ("https://api.openai.com/v1", "http://127.0.0.1:8000/v1", "https://evilx.ai/v1"):
        monkeypatch.setenv("FTM_LLM_BASE_URL", elsewhere)
        assert read_settings().llm_api_key is None


def test_a_key_of_its_own_comes_first_and_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_API_KEY", "sesame")
    monkeypatch.setenv("FTM_LLM_API_KEY", "open-wide\n")
    monkeypatch.setenv("FTM_LLM_MODEL", "grok")
    settings = read_settings()
    assert settings.llm_api_key is not None and settings.llm_api_key.get_secret_value() == "open-wide"
    assert "open-wide" not in repr(settings) and "open-wide" not in str(settings.of_worker())


@pytest.mark.parametrize("url", ["https://me:sesame@api.x.ai/v1", "https://sesame@api.x.ai", "api.x.ai/v1", ""])
def test_an_address_with_a_key_in_it_is_refused_without_repeating_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTM_LLM_BASE_URL", url)
    with pytest.raises(BadSetting, match=r"FTM_LLM_BASE_URL: .* a key belongs into FTM_LLM_API_KEY") as refused:
        read_settings()
    assert "sesame" not in str(refused.value)


def test_a_worker_says_which_model_it_asks_and_what_it_may_cost() -> None:
    assert Settings().of_worker()["FTM_LLM_MODEL"] == ""
    said = Settings(llm_model="grok", llm_rpm=0).of_worker()
    assert (said["FTM_LLM_MODEL"], said["FTM_LLM_RPM"], said["FTM_LLM_QUARTER_CAP"]) == ("grok", "0", "20.0")
