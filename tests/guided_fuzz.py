"""The same targets, guided by coverage: atheris keeps what reaches new lines of ours and goes on from there.

Run by hand; the gate does not need it. Atheris is installed for it alone::

    .venv/bin/pip install atheris
    .venv/bin/python tests/guided_fuzz.py judge -max_total_time=180
    .venv/bin/python tests/guided_fuzz.py all -max_total_time=600

What comes after the target is libFuzzer's: ``-runs=N``, a folder to keep the inputs in, a file to run once more. An
input that breaks a promise is written to ``crash-…`` in the working directory and ends the run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
with atheris.instrument_imports(include=["wire", "central", "edge", "broker", "json", "http"]):
    import fuzzing
    from hostile import Hostile

SEEDS = 300
"""How many inputs of our own each target begins with."""


def main() -> None:
    """Feed one target, or all in turn, until libFuzzer has had enough."""
    name, *options = sys.argv[1:] or ["all"]
    fed_bytes = [target for target in fuzzing.TARGETS if target.name != "pack"]  # That one is fed a list.
    targets = [target for target in fed_bytes if name in ("all", target.name)]
    made = [target.make() for target in targets]
    if not made:
        sys.exit(f"no target {name}; there are: all, {', '.join(target.name for target in fed_bytes)}")

    def one(given: bytes) -> None:
        which, rest = (given[0] % len(made), given[1:]) if len(made) > 1 and given else (0, given)
        text = targets[which].name == "topic"
        made[which][1](rest.decode("latin-1") if text else rest)

    with TemporaryDirectory() as folder:
        is_once_more = any(Path(option).is_file() for option in options)
        _write_seeds(Path(folder), made)
        atheris.Setup([sys.argv[0], *options, *([] if is_once_more else [folder])], one)
        atheris.Fuzz()


def _write_seeds(folder: Path, made: list[tuple[fuzzing.Feed, fuzzing.Check]]) -> None:
    for number, (feed, _) in enumerate(made):
        hostile = Hostile(number)
        for seed in range(SEEDS):
            given = feed(hostile)
            raw = given.encode("utf-8", "replace") if isinstance(given, str) else given
            mark = bytes((number,)) if len(made) > 1 else b""
            (folder / f"{number}-{seed}").write_bytes(mark + raw)


if __name__ == "__main__":
    main()
