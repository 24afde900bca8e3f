"""python -m sqllm.evaluation severity --speech DIR --speakers CSV [--conditions CONDITIONS.csv]
python -m sqllm.evaluation words CORPUS
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from sqllm.errors import run
from sqllm.evaluation import severity as steps
from sqllm.evaluation.words import words
from sqllm.predictor import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sqllm.evaluation", description="How good a model is.")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true")
    commands = parser.add_subparsers(dest="command", required=True)
    b = commands.add_parser("severity", help="scores of clean speech with one fault in five steps")
    b.add_argument("--speech", required=True)
    b.add_argument("--noise")
    b.add_argument("--speakers", help="CSV with columns path and speaker")
    b.add_argument("--conditions", type=Path, help="human-rated conditions to print beside it")
    c = commands.add_parser("words", help="answers about simulated clips against what was done to them")
    c.add_argument("corpus", type=Path, help="shards of sqllm.corpus.simulate")
    c.add_argument("--clips", type=int, default=100)
    c.add_argument("--withheld", action="store_true", help="leave the measured facts out of the prompt")
    c.add_argument("--verbose", action="store_true", help="print every question, answer and truth")
    args = parser.parse_args()
    predictor = Predictor.load(args.model, dtype=args.dtype)
    if args.command == "words":
        result = words(predictor, args.corpus, args.clips, args.withheld, args.verbose)
    else:
        result = steps.severity(predictor, args.speech, args.noise, args.speakers)
    if args.json or args.command == "words":
        print(json.dumps(result, indent=2))
        return
    print(f"{result['speakers']} speakers that training has not heard; model {predictor.fingerprint}")
    steps.show(result, args.conditions)


if __name__ == "__main__":
    run(main)
