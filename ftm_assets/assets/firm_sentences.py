"""Asset `firm_sentences`: the sentences of one firm's calls in one quarter, with their vectors."""

from collections import Counter

import dagster as dg
import numpy as np

from ftm_assets.analysis.boilerplate.seeds import boilerplate_seeds
from ftm_assets.analysis.sentences import FirmTurns, Sentences, SentenceSettings, measure_boilerplate, split_turns
from ftm_assets.assets.metadata import OWNERS, Materialized, Metadata, column_schema, drop_none, markdown_table
from ftm_assets.encoder import Encoder, encode_once
from ftm_assets.partitions import firm_quarters, one_quarter
from ftm_assets.storage.schema import tables

EMBEDDED = "every_sentence_embedded"
N_SHOWN = 8


class SentenceConfig(SentenceSettings, dg.Config):
    """Launchpad form of `SentenceSettings`."""


@dg.asset(
    partitions_def=firm_quarters,
    ins={"transcripts": dg.AssetIn(partition_mapping=one_quarter)},
    io_manager_key="pgvector",
    dagster_type=dg.Any,
    check_specs=[dg.AssetCheckSpec(EMBEDDED, asset="firm_sentences", description="One vector of length 1 a sentence.")],
    owners=OWNERS,
    kinds={"python", "huggingface", "postgres"},
    code_version="4",
    metadata={"dagster/column_schema": column_schema(tables.Sentence)},
)
def firm_sentences(config: SentenceConfig, encoder: dg.ResourceParam[Encoder], transcripts: FirmTurns) -> Materialized:
    """Sentences of one firm's calls in one quarter: exact offsets, role, section, exchange, boilerplate flag, vector.

    Operator turns are not split. A firm without a call, or without a sentence, has an empty partition.
    """
    rows = split_turns(transcripts.company_id, transcripts.turns, config, transcripts.names)
    vectors = encoder.encode([row.text for row in rows])
    measured = measure_boilerplate(rows, vectors, encode_once(encoder, boilerplate_seeds()), config)
    sentences = Sentences.from_turns(transcripts, measured, vectors, (encoder.name, encoder.revision), config)
    return dg.MaterializeResult(
        value=sentences,
        data_version=dg.DataVersion(sentences.content_hash),
        metadata=sentences_metadata(sentences),
        check_results=[check_embedded(sentences)],
    )


def sentences_metadata(sentences: Sentences) -> Metadata:
    """Counts in total and by call, role, section, utterance type and flag, and the first modelled sentences."""
    rows = sentences.rows
    return drop_none(
        {
            "n_sentences": len(rows),
            "n_modelled": len(sentences.modelled()),
            "calls": markdown_table(
                ["call", "date", "sentences", "modelled"],
                [
                    (
                        call.transcript_id,
                        call.call_date,
                        sum(row.transcript_id == call.transcript_id for row in rows),
                        sum(row.transcript_id == call.transcript_id and row.boilerplate is None for row in rows),
                    )
                    for call in sentences.calls
                ],
            ),
            "by role": dict(Counter(row.role for row in rows)),
            "by section": dict(Counter(row.section for row in rows)),
            "by utterance type": dict(Counter(row.utterance_type for row in rows)),
            "n_exchanges": len({(row.transcript_id, row.exchange) for row in rows if row.exchange is not None}),
            "boilerplate": dict(Counter(row.boilerplate for row in rows if row.boilerplate)),
            "encoder": "@".join(sentences.encoder),
            "reason": sentences.reason,
            "preview": markdown_table(
                ["role", "sentence"], [(row.role, row.text) for row in sentences.modelled().rows[:N_SHOWN]]
            ),
        }
    )


def check_embedded(sentences: Sentences) -> dg.AssetCheckResult:
    """Every sentence has a vector of length one."""
    lengths = np.linalg.norm(sentences.embeddings, axis=1)
    is_one = np.isclose(lengths, 1, rtol=0, atol=1e-3)
    off = [row.sentence_id for row, right in zip(sentences.rows, is_one, strict=True) if not right]
    return dg.AssetCheckResult(
        passed=not off, check_name=EMBEDDED, metadata={"sentences": len(lengths), "not of length 1": off[:N_SHOWN]}
    )
