"""Search by a text: encoded with each quarter's own encoder, then compared with that quarter's vectors."""

from collections.abc import Collection, Sequence

import numpy as np

from ftm_assets.encoder import Encoder, EncoderMissing, EncoderTooWide, open_encoder, same_weights
from ftm_assets.errors import FtmError
from ftm_assets.settings import Settings
from ftm_assets.storage.read.queries import NO_FILTER, QuarterEncoder, SearchFilter, SearchResult, encoders_of, search
from ftm_assets.storage.read.search_index import Level
from ftm_assets.storage.server.database import Database


class EmptyQuery(FtmError):
    """A search for an empty text."""

    def __init__(self) -> None:
        super().__init__('the text to search for is empty; give one, such as: ftm search "tariff costs"')


class NothingEncoded(FtmError):
    """A search before any quarter has vectors."""

    def __init__(self) -> None:
        super().__init__(
            "no quarter has vectors yet; load calls and compute them: ftm ingest SOURCE, ftm backfill QUARTER"
        )


class EncoderUnavailable(FtmError):
    """The encoder of a quarter's vectors is not available, and vectors of another one cannot be compared with them."""

    def __init__(self, wanted: QuarterEncoder, reason: str) -> None:
        super().__init__(
            f"{wanted.quarter} is encoded with {wanted.name}@{wanted.revision}, and your text must be too, but {reason}"
            "; set FTM_ENCODER to that model, or search only other quarters with --quarter"
        )


def search_text(
    database: Database,
    text: str,
    quarters: Collection[str] | None = None,
    levels: Sequence[Level] = tuple(Level),
    where: SearchFilter = NO_FILTER,
    limit: int = 10,
) -> SearchResult:
    """The themes, topics and sentences nearest in meaning to a text: the `limit` nearest of each level.

    quarters: None for all that have vectors
    raises:   EmptyQuery, NothingEncoded, NoVectors, EncoderUnavailable
    """
    if not text.strip():
        raise EmptyQuery
    with database.transaction() as connection:
        wanted = encoders_of(connection, quarters)
    if not wanted:
        raise NothingEncoded
    # Outside of the transaction, because loading a model takes seconds.
    vectors = query_vectors(text, wanted, database.settings)
    with database.transaction() as connection:
        return search(connection, vectors, levels, where, limit)


def query_vectors(text: str, wanted: Sequence[QuarterEncoder], settings: Settings) -> dict[str, np.ndarray]:
    """Quarter -> the text's vector by the quarter's encoder, (768,) float32. raises: EncoderUnavailable"""
    made: dict[tuple[str, str], np.ndarray] = {}
    for each in wanted:
        version = (each.name, each.revision)
        if version not in made:
            made[version] = _encoder(each, settings).encode([text])[0]
    return {each.quarter: made[each.name, each.revision] for each in wanted}


def _encoder(wanted: QuarterEncoder, settings: Settings) -> Encoder:
    """The configured encoder if it is the quarter's, otherwise the one with the recorded name."""
    try:
        encoder = open_encoder(settings.encoder, settings.device, settings.precision)
        if encoder.name != wanted.name:
            encoder = open_encoder(wanted.name, settings.device, settings.precision)
        revision = encoder.revision
    except (EncoderMissing, EncoderTooWide) as error:
        raise EncoderUnavailable(wanted, str(error)) from error
    # A vector in another precision points nearly the same way, and finds the same.
    if encoder.name != wanted.name or not same_weights(revision, wanted.revision):
        raise EncoderUnavailable(wanted, f"this machine has {encoder.name}@{revision}")
    return encoder
