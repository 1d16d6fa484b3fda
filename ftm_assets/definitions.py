"""The whole graph on one screen.

transcripts -> firm_sentences -> firm_topics -> topic_summaries -> cross_firm_themes -> search_index
"""

import dagster as dg

from ftm_assets.assets.checks import quarter_coverage, theme_rules, themes_current
from ftm_assets.assets.cross_firm_themes import cross_firm_themes
from ftm_assets.assets.firm_sentences import firm_sentences
from ftm_assets.assets.firm_topics import firm_topics
from ftm_assets.assets.jobs import firm_quarter, firm_summaries, ingest_quarter, quarter_index, quarter_themes
from ftm_assets.assets.search_index import search_index
from ftm_assets.assets.sensors import complete_quarters, published_quarters
from ftm_assets.assets.topic_summaries import topic_summaries
from ftm_assets.assets.transcripts import transcripts
from ftm_assets.encoder import Encoder, open_encoder
from ftm_assets.launcher.encoder_server import RemoteEncoder
from ftm_assets.llm.ledger import Ledger
from ftm_assets.llm.protocol import LanguageModel, NoLanguageModel
from ftm_assets.llm.shared_client import find_language_model
from ftm_assets.settings import read_settings
from ftm_assets.storage.server.database import Database
from ftm_assets.storage.write.io_manager import PgVectorIOManager


def build_definitions(
    database: Database,
    encoder: Encoder,
    language_model: LanguageModel | None = None,
) -> dg.Definitions:
    """The graph with the given resources; nothing is opened or loaded before a run needs it.

    language_model: None where none is configured; keywords take its place
    """
    return dg.Definitions(
        assets=[transcripts, firm_sentences, firm_topics, topic_summaries, cross_firm_themes, search_index],
        asset_checks=[quarter_coverage, themes_current, theme_rules],
        jobs=[ingest_quarter, firm_quarter, firm_summaries, quarter_themes, quarter_index],
        sensors=[complete_quarters, published_quarters],
        resources={
            "database": database,
            "pgvector": PgVectorIOManager(database),
            "encoder": encoder,
            "language_model": NoLanguageModel() if language_model is None else language_model,
        },
        # Decision 6: a process for each step would load the model each time.
        executor=dg.in_process_executor,
    )


settings = read_settings()
encoder = (
    RemoteEncoder(settings.encoder_address)
    if settings.encoder_address
    else open_encoder(settings.encoder, settings.device, settings.precision)
)
database = Database(settings)
language_model = find_language_model(settings, Ledger(database))
defs = build_definitions(database, encoder, language_model)
