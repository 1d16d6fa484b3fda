from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ftm_assets.analysis import themes
from ftm_assets.analysis.bertopic_model import QUARTER as SHAPE
from ftm_assets.analysis.bertopic_model import BERTopicModel
from ftm_assets.analysis.clustering import TopicModelResult
from ftm_assets.analysis.communities import CommunityModel
from ftm_assets.analysis.themes import (
    DOMINATED,
    FEW_KEYWORDS,
    ONE_FIRM,
    Cluster,
    KnownThemes,
    QuarterTopic,
    QuarterTopics,
    Theme,
    Themes,
    ThemeSettings,
    find_themes,
    input_hash,
    match_themes,
    rejection,
    topic_model,
    topic_terms,
)
from ftm_assets.analysis.vectors import unit_rows
from ftm_assets_tests.fakes import FirstWordModel

DEFAULTS = ThemeSettings()
SMALL = ThemeSettings(min_theme_size=2)
FIRST_WORD = FirstWordModel(n_keywords=2)
EYE = np.eye(8, dtype=np.float32)


def quarter_of(topics: Sequence[tuple[int, str]], **changes: Any) -> QuarterTopics:
    """A quarter in which firms speak of things: (company id, word) each; one direction for each word.

    Who speaks of a thing names it with two terms, itself and its costs.
    """
    words = sorted({word for _, word in topics})
    vectors = EYE[[words.index(word) for _, word in topics]] if topics else EYE[:0]
    facts: dict[str, Any] = {
        "quarter": "2021Q4",
        "topics": tuple(
            QuarterTopic(firm, i, f"{word} label", (f"{word} costs",), 0.0) for i, (firm, word) in enumerate(topics)
        ),
        "exemplars": vectors,
        "summaries": vectors[:, ::-1],
        "firm_hashes": {firm: f"hash {firm}" for firm, _ in topics},
        "n_expected": 9,
        "n_by_keywords": len(topics),
    }
    return QuarterTopics(**{**facts, **changes})


def themes_of(topics: Sequence[tuple[int, str]], **changes: Any) -> Themes:
    """What is found when equal words are one cluster, and two topics are enough for one."""
    return find_themes(quarter_of(topics, **changes), SMALL, FIRST_WORD)


QUARTER = [(1, "wages"), (2, "wages"), (3, "wages"), (1, "freight"), (2, "freight"), (3, "freight"), (4, "freight")]


# --- what makes a theme


def test_themes_come_largest_first_with_their_firms_and_their_largest_share() -> None:
    found = themes_of([*QUARTER, (4, "freight"), (5, "rain")])
    assert found.themes == (
        Theme(1, "freight costs", ("freight", "freight costs"), 4, 5, 0.4, 7 / 25, None),
        Theme(2, "wages costs", ("wages", "wages costs"), 3, 3, 1 / 3, 3 / 9, None),
    )
    assert found.n_noise == 1
    assert found.rejected == {}
    assert found.n_topics == 9
    assert found.n_expected == 9


def test_members_are_the_topics_of_the_themes_with_their_cosine() -> None:
    quarter = quarter_of([(1, "wages"), (2, "wages"), (3, "wages"), (4, "rain")])
    leaning = quarter.exemplars.copy()
    leaning[0, :4] = [0, 0.6, 0, 0.8]
    found = find_themes(replace(quarter, exemplars=leaning), SMALL, FIRST_WORD)
    assert [(m.company_id, m.topic_number, m.topic_label, m.theme_number) for m in found.members] == [
        (1, 0, "wages label", 1),
        (2, 1, "wages label", 1),
        (3, 2, "wages label", 1),
    ]
    centre = unit_rows(leaning[:3].mean(axis=0, keepdims=True))
    assert np.allclose(found.centroids, centre)
    assert [m.similarity for m in found.members] == pytest.approx((leaning[:3] @ centre[0]).tolist(), abs=1e-6)


def test_what_is_rejected_is_counted_with_the_reason_and_stays_without_theme() -> None:
    found = themes_of(
        [*QUARTER[:3], (5, "rain"), (5, "rain"), *[(6, "snow")] * 2, *[(7, "hail")] * 3, (8, "hail"), (9, "sun")]
    )
    assert [theme.label for theme in found.themes] == ["wages costs"]
    assert found.rejected == {ONE_FIRM: 2, DOMINATED: 1}
    assert found.n_noise == 1
    assert len(found.members) == 3
    assert len(found.centroids) == 1


def cluster(company_ids: Sequence[int], keywords: tuple[str, ...] = ("a", "b")) -> Cluster:
    """One topic for each company id, each of which says a and b."""
    topics = tuple(QuarterTopic(firm, i, "", (), 0.0) for i, firm in enumerate(company_ids))
    return Cluster(topics, (("a", "b"),) * len(topics), (1.0,) * len(topics), keywords)


@pytest.mark.parametrize(
    ("company_ids", "settings", "reason"),
    [
        ([1, 1, 1], DEFAULTS, ONE_FIRM),
        ([1], DEFAULTS, ONE_FIRM),
        ([1, 2], DEFAULTS, DOMINATED),
        ([1, 2, 3], DEFAULTS, None),
        ([1, 1, 2, 3, 4], DEFAULTS, None),  # Exactly 40 %.
        ([1, 1, 1, 2, 3, 4, 5], DEFAULTS, DOMINATED),
        ([*[1] * 6, *range(2, 11)], DEFAULTS, None),  # Again exactly 40 %.
        ([1, 2], ThemeSettings(max_firm_share=0.5), None),
        ([*[1] * 29, *range(2, 73)], ThemeSettings(max_firm_share=0.29), None),  # 0.29 * 100 is below 29.
        ([1, 2, 3], ThemeSettings(min_firms=4), "fewer than 4 firms"),
        ([1, 1], ThemeSettings(min_firms=4), ONE_FIRM),
        ([1, 1], ThemeSettings(min_firms=1, max_firm_share=1), None),
    ],
)
def test_a_theme_needs_several_firms_and_belongs_to_none(
    company_ids: list[int], settings: ThemeSettings, reason: str | None
) -> None:
    assert rejection(cluster(company_ids), settings, 9) == reason


def test_a_theme_needs_more_firms_in_a_larger_quarter() -> None:
    assert [DEFAULTS.fewest_firms(n) for n in (0, 9, 56, 57, 225, 900, 90_000)] == [2, 2, 2, 3, 5, 10, 100]
    assert ThemeSettings(min_firms=7).fewest_firms(90_000) == 7
    assert rejection(cluster([1, 2, 3, 4]), DEFAULTS, 100) is None
    assert rejection(cluster([1, 2, 3, 4]), DEFAULTS, 225) == "fewer than 5 firms"


def test_a_firm_without_a_topic_belongs_to_the_quarter() -> None:
    mentions = [(1, "wages"), (2, "wages"), (3, "rain"), (3, "snow")]
    assert themes_of(mentions).rejected == {DOMINATED: 1}
    assert themes_of(mentions, firm_hashes=dict.fromkeys(range(57), "hash")).rejected == {"fewer than 3 firms": 1}


@pytest.mark.parametrize(
    ("keywords", "settings", "reason"),
    [
        (("a", "b"), DEFAULTS, None),
        (("a", "c", "d"), ThemeSettings(min_keywords_said=1.1), FEW_KEYWORDS),
        (("a", "c", "d"), DEFAULTS, None),
        ((), DEFAULTS, FEW_KEYWORDS),
        ((), ThemeSettings(min_keywords_said=0), None),
    ],
)
def test_a_theme_has_keywords_that_its_topics_say(
    keywords: tuple[str, ...], settings: ThemeSettings, reason: str | None
) -> None:
    assert rejection(cluster([1, 2, 3], keywords), settings, 9) == reason


def test_keywords_said_are_counted_once_a_topic_and_averaged() -> None:
    terms_of = (("a", "a", "x"), ("a", "b"), (), ("b",))
    topics = tuple(QuarterTopic(firm, 0, "", (), 0.0) for firm in range(4))
    assert Cluster(topics, terms_of, (1.0,) * 4, ("a", "b", "c")).keywords_per_topic == (1 + 2 + 0 + 1) / 4


def test_a_keyword_counts_the_less_the_more_firms_of_the_baseline_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(themes, "baseline_shares", lambda: {"a": 0.75})
    assert cluster([0, 1, 2]).keywords_per_topic == 1.25


def test_clusters_are_rejected_by_reason() -> None:
    settings = ThemeSettings(min_theme_size=2, min_firms=3, min_keywords_said=1.2)
    mentions = [
        *[(firm, "wages") for firm in (1, 2, 3)],
        *[(4, "rain")] * 2,  # One firm.
        *[(firm, "hail") for firm in (4, 5)],  # Two.
        *[(firm, "snow") for firm in (6, 6, 6, 7, 8)],  # Three, of which one holds more than 40 %.
        *[(firm, "sun") for firm in (1, 2, 3)],
    ]
    quarter = quarter_of(mentions)
    wordless = [replace(topic, sentences=("sun",)) if topic.label == "sun label" else topic for topic in quarter.topics]
    found = find_themes(replace(quarter, topics=tuple(wordless)), settings, FIRST_WORD)
    assert found.rejected == {ONE_FIRM: 1, "fewer than 3 firms": 1, DOMINATED: 1, FEW_KEYWORDS: 1}
    assert [theme.label for theme in found.themes] == ["wages costs"]
    assert {member.theme_number for member in found.members} == {1}


@pytest.mark.parametrize(
    ("company_ids", "share", "index"),
    [([1, 2, 3, 4], 1 / 4, 1 / 4), ([1, 1, 2, 2], 1 / 2, 1 / 2), ([1, 1, 1, 2], 3 / 4, 10 / 16), ([1, 1], 1, 1)],
)
def test_a_theme_is_as_concentrated_as_its_topics_are_on_few_firms(
    company_ids: list[int], share: float, index: float
) -> None:
    theme = cluster(company_ids).theme(5)
    assert (theme.theme_number, theme.top_firm_share, theme.concentration) == (5, share, index)


# --- the numbers of themes


def known(*numbers: int, next_number: int = 9) -> KnownThemes:
    return KnownThemes(numbers, EYE[: len(numbers)], next_number)


def directions(*rows: list[float]) -> np.ndarray:
    return unit_rows(np.array(rows) @ EYE[: len(rows[0])])


def test_first_themes_are_numbered_from_one() -> None:
    assert match_themes(EYE[:4], KnownThemes(), 0.8) == [1, 2, 3, 4]
    assert match_themes(EYE[:0], known(3), 0.8) == []


def test_a_theme_that_is_found_again_keeps_its_number() -> None:
    assert match_themes(EYE[[1, 0]], known(5, 2), 0.8) == [2, 5]
    assert match_themes(EYE[[1, 0]], known(5, 2), 1) == [2, 5]
    assert match_themes(EYE[[1, 0]] * 3, known(5, 2), 0.8) == [2, 5]


def test_a_new_theme_gets_a_number_that_was_never_used() -> None:
    assert match_themes(EYE[[2, 1, 3]], known(5, 2), 0.8) == [9, 2, 10]


def test_a_known_theme_is_matched_once_to_the_nearest() -> None:
    near = directions([0.9, 0.1], [1, 0])
    assert match_themes(near, known(5), 0.8) == [9, 5]


def test_the_matching_is_the_best_as_a_whole() -> None:
    # Each is nearest to the first known theme; taking turns by nearness would leave the second unmatched.
    centres = directions([1, 0.1], [1, 0.9])
    assert match_themes(centres, known(5, 2), 0.6) == [5, 2]


def test_below_the_threshold_there_is_no_match() -> None:
    centres = directions([0.8, 0.6])
    assert match_themes(centres, known(5), 0.8) == [5]
    assert match_themes(centres, known(5), 0.81) == [9]


def test_many_weak_matches_do_not_outweigh_a_strong_one() -> None:
    centres = directions([0.95, 0.25, 0], [0.3, 0, 0.95])
    # 0.967 for the first alone is more than 0.254 + 0.301 for both.
    assert match_themes(centres, known(5, 2), 0.25) == [5, 9]


def test_running_twice_keeps_all_numbers_and_a_retired_one_is_not_given_again() -> None:
    first = themes_of(QUARTER)
    after = KnownThemes(tuple(t.theme_number for t in first.themes), first.centroids, 3)
    again = themes_of(QUARTER, known=after)
    assert again.themes == first.themes
    assert again.content_hash == first.content_hash

    # Freight, number 1, is gone; only wages is current, and what comes next is 3.
    less = themes_of([*QUARTER[:3], (4, "wages")], known=after, exemplars=EYE[[1] * 4])
    assert [(t.theme_number, t.label) for t in less.themes] == [(2, "wages costs")]
    back = themes_of(QUARTER, known=KnownThemes((2,), less.centroids, 3))
    assert {t.label: t.theme_number for t in back.themes} == {"freight costs": 3, "wages costs": 2}


def test_vectors_of_another_encoder_are_not_compared() -> None:
    first = themes_of(QUARTER, encoder="hash@1")
    assert first.provenance["encoder"] == "hash@1"
    numbers = tuple(theme.theme_number for theme in first.themes)
    before = KnownThemes(numbers, first.centroids, 7, encoder="hash@1")

    same = themes_of(QUARTER, known=before, encoder="hash@1")
    other = themes_of(QUARTER, known=before, encoder="hash@2")

    assert [theme.theme_number for theme in same.themes] == [1, 2]
    assert [theme.theme_number for theme in other.themes] == [7, 8]


# --- the input


class Recording(FirstWordModel):
    """Keeps what it is asked for."""

    def fit_transform(self, documents: Sequence[Sequence[str]], embeddings: np.ndarray) -> TopicModelResult:
        object.__setattr__(self, "asked", (documents, embeddings))
        return super().fit_transform(documents, embeddings)

    asked: tuple[Sequence[Sequence[str]], np.ndarray]


@pytest.mark.parametrize(
    ("theme_input", "n_by_keywords", "used"),
    [
        ("exemplars", 7, "exemplars"),
        ("keywords", 7, "keywords"),
        ("llm", 0, "llm"),
        # A mixture of summaries, or none of the kind that is wanted.
        ("keywords", 6, "exemplars"),
        ("llm", 1, "exemplars"),
        ("keywords", 0, "exemplars"),
        ("llm", 7, "exemplars"),
    ],
)
def test_summaries_are_clustered_where_all_are_of_the_kind_that_is_wanted_else_exemplars(
    theme_input: str, n_by_keywords: int, used: str
) -> None:
    quarter = quarter_of(QUARTER, n_by_keywords=n_by_keywords)
    settings = ThemeSettings.model_validate({"min_theme_size": 2, "theme_input": theme_input})
    model = Recording()

    found = find_themes(quarter, settings, model)

    documents, vectors = model.asked
    assert np.array_equal(vectors, quarter.exemplars if used == "exemplars" else quarter.summaries)
    assert list(documents) == topic_terms(quarter)
    assert found.provenance == {"settings": settings.model_dump(), "encoder": None, "theme_input": used}


@pytest.mark.parametrize("n", range(5))
def test_a_quarter_with_few_topics_has_no_themes(n: int) -> None:
    found = find_themes(quarter_of([(firm, "wages") for firm in range(n)]))
    assert (found.themes, found.members, found.rejected) == ((), (), {})
    assert found.n_noise == found.n_topics == n
    assert found.centroids.shape == (0, 8)


def test_three_topics_are_too_few_whatever_the_settings() -> None:
    assert find_themes(quarter_of(QUARTER[:3]), ThemeSettings(min_theme_size=2)).n_noise == 3


def test_themes_know_what_they_were_made_from() -> None:
    at = datetime(2021, 12, 31, tzinfo=UTC)
    quarter = quarter_of(QUARTER, as_of=at)
    found = find_themes(quarter, SMALL, FIRST_WORD)
    assert found.as_of == at
    assert found.input_hash == quarter.input_hash == input_hash(found.firm_hashes)


def test_the_hash_of_the_inputs_depends_on_firms_and_contents_but_not_on_their_order() -> None:
    hashes: Mapping[int, str] = {1: "a", 2: "b"}
    assert input_hash(hashes) == input_hash({2: "b", 1: "a"})
    assert len({input_hash(x) for x in (hashes, {1: "b", 2: "a"}, {1: "a"}, {1: "a", 3: "b"})}) == 4


def test_the_hash_of_themes_covers_what_is_stored() -> None:
    found = themes_of(QUARTER)
    others = [
        replace(found, themes=found.themes[::-1]),
        replace(found, members=found.members[::-1]),
        replace(found, centroids=-found.centroids),
        replace(found, rejected={ONE_FIRM: 1}),
        replace(found, n_noise=1),
    ]
    assert len({found.content_hash, *(other.content_hash for other in others)}) == 6
    assert replace(found, firm_hashes={}, n_expected=0).content_hash == found.content_hash


# --- the default model


def scattered(n_firms: int = 12, subjects: Sequence[str] = ("wages", "freight", "leases")) -> QuarterTopics:
    """Each firm has one topic about each subject, and one that nobody shares, neither by place nor by words."""
    chance = np.random.default_rng(2)
    words = [*subjects, "other"]
    topics = [(firm, word) for firm in range(1, n_firms + 1) for word in words]
    means = np.eye(4, 48)[[words.index(word) for _, word in topics]]
    alone = np.array([word == "other" for _, word in topics])
    means[alone] = 0
    noise = chance.normal(scale=np.where(alone, 1, 0.04)[:, None], size=(len(topics), 48))
    quarter = quarter_of(topics, exemplars=unit_rows(means + noise))
    distinct = [replace(t, sentences=(f"own{t.company_id}x",)) if "other" in t.label else t for t in quarter.topics]
    return replace(quarter, topics=tuple(distinct))


def test_the_default_model_finds_what_the_firms_share() -> None:
    found = find_themes(scattered())
    assert numbers_of(found).keys() == {"wages", "freight", "leases"}
    for theme in found.themes:
        labels = [m.topic_label for m in found.members if m.theme_number == theme.theme_number]
        assert labels.count(f"{theme.keywords[0].split()[0]} label") > len(labels) / 2
        assert theme.stability is not None and 0.5 < theme.stability <= 1
    assert find_themes(scattered()).content_hash == found.content_hash


def test_nobody_looks_for_stability_without_refits() -> None:
    assert {theme.stability for theme in find_themes(scattered(), ThemeSettings(n_refits=0)).themes} == {None}


def only(quarter: QuarterTopics, rows: Sequence[int]) -> QuarterTopics:
    """The quarter with these of its topics, in this order."""
    topics = tuple(quarter.topics[row] for row in rows)
    hashes = {topic.company_id: quarter.firm_hashes[topic.company_id] for topic in topics}
    return replace(quarter, topics=topics, exemplars=quarter.exemplars[rows], firm_hashes=hashes)


def after(quarter: QuarterTopics, published: Themes) -> QuarterTopics:
    """The quarter once these themes were published; three have been numbered."""
    numbers = tuple(theme.theme_number for theme in published.themes)
    topics: dict[int, set[tuple[int, int]]] = {number: set() for number in numbers}
    for member in published.members:
        topics[member.theme_number].add((member.company_id, member.topic_number))
    known = KnownThemes(numbers, published.centroids, 4, tuple(map(frozenset, topics.values())))
    return replace(quarter, known=known)


def numbers_of(themes: Themes) -> dict[str, int]:
    return {theme.keywords[0].split()[0]: theme.theme_number for theme in themes.themes}


@pytest.mark.parametrize("gone", [1, 5, 12])
def test_without_one_of_its_firms_a_theme_keeps_its_number(gone: int) -> None:
    quarter = scattered()
    first = find_themes(quarter)
    rest = only(quarter, [row for row, topic in enumerate(quarter.topics) if topic.company_id != gone])

    found = find_themes(after(rest, first))

    assert numbers_of(found) == numbers_of(first)
    kept = {(m.company_id, m.topic_number): m.theme_number for m in first.members if m.company_id != gone}
    of_subjects = {
        (m.company_id, m.topic_number): m.theme_number for m in found.members if "other" not in m.topic_label
    }
    assert of_subjects.items() <= kept.items()


def test_a_theme_that_vanishes_is_retired_and_comes_back_under_a_new_number() -> None:
    quarter = scattered()
    first = find_themes(quarter)
    silent = only(quarter, [row for row, topic in enumerate(quarter.topics) if topic.label != "leases label"])
    less = find_themes(after(silent, first))
    assert numbers_of(less) == {name: number for name, number in numbers_of(first).items() if name != "leases"}

    assert numbers_of(find_themes(after(quarter, less))) == {**numbers_of(less), "leases": 4}


def test_the_order_of_the_firms_does_not_matter() -> None:
    quarter = scattered()
    order = np.random.default_rng(4).permutation(len(quarter.topics)).tolist()
    first = find_themes(quarter)

    def shared(themes: Themes) -> set[tuple[int, int, int]]:
        return {(m.company_id, m.topic_number, m.theme_number) for m in themes.members if "other" not in m.topic_label}

    assert shared(find_themes(after(only(quarter, order), first))) == shared(first)


def test_the_smallest_theme_grows_with_the_root_of_the_quarter() -> None:
    assert [DEFAULTS.smallest_theme(n) for n in (0, 225, 324, 900, 3600, 90_000)] == [5, 5, 6, 10, 20, 100]
    assert ThemeSettings(min_theme_size=7).smallest_theme(90_000) == 7


def test_a_small_quarter_has_more_runs_to_agree_in_and_a_large_one_no_fewer_than_twenty() -> None:
    assert [DEFAULTS.runs(n) for n in (0, 2000, 4000, 10_000, 90_000)] == [100, 100, 50, 20, 20]
    assert [ThemeSettings(n_runs=12).runs(n) for n in (9, 90_000)] == [12, 12]
    model = topic_model(DEFAULTS, 5, [1] * 4000)
    assert isinstance(model, CommunityModel) and model.settings.n_runs == 50


def test_the_settings_name_the_model_and_the_quarter_its_smallest_theme() -> None:
    assert topic_model(DEFAULTS, 7, [1, 2]) == CommunityModel(DEFAULTS, 7, [1, 2], n_refits=5)
    settings = ThemeSettings(model="bertopic")
    assert topic_model(settings, 7, [1, 2]) == BERTopicModel(settings, SHAPE, 7)


def test_the_quarter_reaches_the_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[CommunityModel] = []

    def recorded(model: CommunityModel, documents: Sequence[Sequence[str]], embeddings: np.ndarray) -> TopicModelResult:
        asked.append(model)
        return FIRST_WORD.fit_transform(documents, embeddings)

    monkeypatch.setattr(CommunityModel, "fit_transform", recorded)
    settings = ThemeSettings(seed=7, n_refits=1)
    find_themes(quarter_of(QUARTER), settings)
    find_themes(quarter_of(QUARTER), SMALL)
    firms = [company_id for company_id, _ in QUARTER]
    assert asked == [CommunityModel(settings, 5, firms, 1), CommunityModel(SMALL, 2, firms, 5)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_theme_size", 1),
        ("theme_input", "model"),
        ("min_firms", 0),
        ("seed", 2**32),
        ("max_firm_share", 0),
        ("max_firm_share", 1.1),
        ("n_refits", -1),
        ("min_stability", 1.1),
        ("min_keywords_said", -0.1),
        ("match_threshold", -0.1),
        ("match_threshold", 1.1),
    ],
)
def test_settings_outside_their_bounds_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        ThemeSettings.model_validate({name: value})


def test_between_themes_at_the_same_place_shared_topics_decide() -> None:
    twins = EYE[[0, 0]]
    one, other = frozenset({(7, 0)}), frozenset({(8, 0)})
    before = KnownThemes((1, 2), twins, 3, (one, other))
    assert match_themes(twins, before, 0.8, [one, other]) == [1, 2]
    assert match_themes(twins, before, 0.8, [other, one]) == [2, 1]


def test_shared_topics_never_outweigh_nearness_however_many_themes_there_are() -> None:
    n = 24
    each = np.eye(n)
    # Every theme stands halfway between two known ones, and the first one a step of rounding nearer to the second.
    away = np.full((n, 1), np.pi / 4)
    away[0] += 1.5e-6
    centres = np.cos(away) * each + np.sin(away) * np.roll(each, 1, axis=1)
    topics = tuple(frozenset({(firm, 0)}) for firm in range(n))
    before = KnownThemes(tuple(range(n)), each.astype(np.float32), n, topics)
    assert match_themes(centres, before, 0.7, topics) == [*range(1, n), 0]
