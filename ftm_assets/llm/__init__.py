"""The language model: prompts, checked replies, and one client that keeps limits, breaker, ledger and budget.

What a newcomer needs to know is the way of one request:

    topic_summaries, theme_descriptions     build prompts; guardrails check what comes back
      | prompting.run_tasks                 repairs a bad reply once, then gives up
      v
    CompletionRequest                    1  protocol.py         what the reply depends on, and who pays
      v
    LlmClient.complete                   2  client.py           answers from the ledger; equal requests run once
      v
    PendingRequest                       3  pending_request.py  retries until there is a result
      |   asks CircuitBreaker and RateLimiter for leave: they see neither request nor reply
      v
    Budget -> Ledger                   4 5  budget.py, ledger.py  reserves the highest price in Postgres, or says no
      v
    OpenAITransport                      6  transport.py        one HTTP request, and what its errors mean
      v
    Completion or CompletionFailure      7  protocol.py         goes back the same way; the ledger stores it first

Limits hold for the whole machine because one process owns the client (shared_client.py); the others reach it through
`RemoteLanguageModel`, a `LanguageModel` like the client itself.
"""
