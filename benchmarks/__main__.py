"""Runs one of the benchmarks: python -m benchmarks NAME [options]; without a name, lists them."""

import sys
from importlib import import_module

# Name -> module, and what it measures.
BENCHMARKS = {
    "launcher": ("launcher", "what a firm's run costs beside its work: the GPU worker against a process for each run"),
    "firm": ("firm", "CPU seconds of a firm, stage by stage, beside a plain BERTopic script"),
    "themes": ("themes", "what the themes of a quarter cost, by the number of topics"),
    "queries": ("queries", "how long questions take on a full quarter, and how much of what is near a search finds"),
    "load": ("load", "how fast sentences with vectors come into the database"),
    "language": ("language", "how much of a provider's limits the client uses, and what faults cost"),
    "encoder": ("encoder", "how fast sentences become vectors, by precision, batches and threads; has a mode for GPUs"),
    "quality": ("quality.compare", "how good topics and themes are, beside a plain BERTopic script"),
    "projection": ("projection", "what a quarter takes on another machine, from the JSON of launcher and themes"),
}


def listing() -> str:
    """A line for each benchmark."""
    return "\n".join(f"  {name:<12}{measures}" for name, (_, measures) in BENCHMARKS.items())


def main() -> None:
    """Run the benchmark that the first argument names; the others are its own."""
    name, *options = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"python -m benchmarks NAME [options]; each has --help\n\n{listing()}")
        return
    if name not in BENCHMARKS:
        sys.exit(f"no benchmark {name!r}; there are:\n{listing()}")
    module, _ = BENCHMARKS[name]
    sys.argv = [f"python -m benchmarks {name}", *options]
    import_module(f"benchmarks.{module}").main()


if __name__ == "__main__":
    main()
