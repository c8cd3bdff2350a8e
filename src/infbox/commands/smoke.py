"""`infbox smoke`: ask the box one real question over TLS. The checks are in `infbox.smoke`."""

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infbox.errors import NotReadyError
from infbox.smoke import Target, run_smoke


def register(commands: Any) -> None:
    """Add `smoke` to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser("smoke", help="ask the box one real question over TLS")
    parser.add_argument("--url", required=True, help="https://HOST[:PORT]")
    parser.add_argument("--key-file", metavar="FILE", type=Path, required=True, help="a file that holds an API key")
    parser.add_argument("--ca-file", metavar="FILE", type=Path, help="the CA to trust (default: the system's)")
    parser.add_argument(
        "--server-name", metavar="NAME", help="the name to ask for and verify (default: the URL's host)"
    )
    parser.add_argument("--question", default="What is the capital of France?", help="default: %(default)s")
    parser.add_argument("--expect", metavar="REGEX", help="what the answer must match somewhere, in any case")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=60.0, help="how long a starting box is asked (default: 60)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Ask, and print what came back."""
    if options.expect is not None:
        try:
            re.compile(options.expect)
        except re.error as fault:
            raise NotReadyError(f"--expect is {options.expect!r}, which is not a regex: {fault}") from None
    target = Target.parse(options.url, _key(options.key_file), options.ca_file, options.server_name)
    result = run_smoke(target, options.question, options.expect, options.timeout)
    if options.json:
        print(json.dumps(asdict(result)))
        return
    speed = "" if result.tokens_per_second is None else f", {result.tokens_per_second:.1f} tokens/s"
    answer = " ".join(result.answer.split())
    print(f"{result.model}: {answer} (TTFT {result.ttft_seconds:.2f} s{speed})")


def _key(path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as fault:
        raise NotReadyError(
            f"--key-file {path} cannot be read: {fault}", f"make one: infbox key ensure NAME --out {path}"
        ) from None
    if not key.isascii() or not key.isprintable() or not key:
        raise NotReadyError(f"--key-file {path} does not hold a key", f"make one: infbox key ensure NAME --out {path}")
    return key
