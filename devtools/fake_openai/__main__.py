"""A fake language model until Ctrl-C, to try the software without one: python -m devtools.fake_openai"""

import argparse
import threading
from contextlib import suppress

from devtools.fake_openai.behaviour import MODEL, Behaviour, mixed
from devtools.fake_openai.server import running


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m devtools.fake_openai",
        description="A language model whose replies are made of the words of the request. They mean nothing.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8123, help="port of loopback, 0 for any free one")
    parser.add_argument("--latency", type=float, default=0.2, help="seconds until each reply")
    parser.add_argument("--rpm", type=int, default=0, help="requests that it answers in any minute, 0 for no limit")
    parser.add_argument("--tpm", type=int, default=0, help="tokens that it answers in any minute, 0 for no limit")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that go wrong, in every way")
    parser.add_argument("--key", help="the only API key that it accepts; without, any")
    return parser


def main() -> None:
    """Answer, after the settings that lead there were printed."""
    chosen = parser().parse_args()
    behaviour = Behaviour(
        mixed(chosen.faults), latency_s=chosen.latency, rpm=chosen.rpm, tpm=chosen.tpm, key=chosen.key
    )
    with running(behaviour, chosen.port) as model, suppress(KeyboardInterrupt):
        print("# A fake model: its replies mean nothing. In another terminal:")
        print(f"export FTM_LLM_BASE_URL={model.base_url}")
        print(f"export FTM_LLM_MODEL={MODEL}")
        print(f"export FTM_LLM_API_KEY={chosen.key or 'none'}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
