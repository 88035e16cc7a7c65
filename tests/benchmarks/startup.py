"""How long `toksweep --help` and `toksweep list methods` take, as ratios to an interpreter that does nothing.

Usage: python tests/benchmarks/startup.py [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

from toksweep.harness.cost.latency import probe

BASELINE = "python -c pass"
ENTRY = "import sys; from toksweep.cli import main; sys.argv[0] = 'toksweep'; sys.exit(main())"
CASES = {
    BASELINE: ["-c", "pass"],
    "toksweep --help": ["-c", ENTRY, "--help"],
    "toksweep list methods": ["-c", ENTRY, "list", "methods"],
}


def run(arguments: list[str]) -> Callable[[], object]:
    """A case: one fresh interpreter, its output thrown away; a command that fails is an error, not a fast result."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11, help="measured rounds of all commands in turn")
    parser.add_argument("--json", action="store_true", help="one JSON object by command")
    options = parser.parse_args()
    found = probe({name: run(a) for name, a in CASES.items()}, BASELINE, rounds=options.rounds)
    if options.json:
        print(json.dumps({name: asdict(timing) for name, timing in found.items()}, indent=2))
        return
    print(f"{'command':<24}{'median ms':>12}{'quartiles ms':>18}{'ratio':>8}")
    for name, t in found.items():
        print(f"{name:<24}{t.median_ms:>12.0f}{f'{t.q1_ms:.0f} to {t.q3_ms:.0f}':>18}{t.ratio:>8.1f}")


if __name__ == "__main__":
    main()
