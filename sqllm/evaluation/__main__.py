"""python -m sqllm.evaluation words CORPUS [--withheld]
python -m sqllm.evaluation controls CORPUS
python -m sqllm.evaluation listeners CORPUS [--conditions CONDITIONS.csv]
python -m sqllm.evaluation head CORPUS [--rated RATINGS.csv --column mos=score --only set=p835 --ranks]
python -m sqllm.evaluation encoder CORPUS [--rated RATINGS.csv, and so on]
python -m sqllm.evaluation teachers CORPUS --rated RATINGS.csv, and so on
python -m sqllm.evaluation tokens CORPUS --counts 64 128 256
python -m sqllm.evaluation draws CALL...|--speech DIR [--windows 4 8 16 32] [--until-se 0.2 0.1 0.05]
python -m sqllm.evaluation severity --speech DIR --speakers CSV [--conditions CONDITIONS.csv]

CORPUS are shards of `sqllm corpus simulate`. With --json the figures come unrounded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from sqllm.errors import UsageError, run
from sqllm.evaluation import report
from sqllm.evaluation import severity as steps
from sqllm.evaluation.controls import controls
from sqllm.evaluation.draws import draws, made
from sqllm.evaluation.head import head, teachers, tokens, tuned
from sqllm.evaluation.listeners import listeners
from sqllm.evaluation.words import words
from sqllm.predictor import Predictor


def arguments() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--model", metavar="PRESET|DIR")
    common.add_argument("--dtype", choices=["auto", "bfloat16", "float32"])
    common.add_argument("--json", action="store_true")
    parser = argparse.ArgumentParser(
        prog="python -m sqllm.evaluation", description=__doc__, parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, about: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, parents=[common])

    def command(name: str, about: str, clips: int | None = None) -> argparse.ArgumentParser:
        found = add(name, about)
        found.add_argument("corpus", type=Path, help="shards of `sqllm corpus simulate`")
        if clips:
            found.add_argument("--clips", type=at_least_1, default=clips)
        return found

    c = command("words", "answers about simulated clips against what was done to them", 100)
    c.add_argument("--withheld", action="store_true", help="leave the measured facts out of the prompt")
    c.add_argument("--verbose", action="store_true", help="print every question, answer and truth")
    c = command("controls", "what must move a score and what must not", 160)
    c.add_argument("--spoken", type=at_least_1, default=20, help="clips of which words are generated")
    c = command("listeners", "shifts of the listeners' scores, and the spread of the panel", 160)
    c.add_argument("--conditions", type=Path, help="human-rated conditions, with mos and mos_std")
    for name, about in (
        ("head", "a plain regression head on the same features and labels, beside the language model"),
        ("encoder", "what it brings that head that its encoder learns too; wants a GPU"),
        ("teachers", "what that head learns of mos from each of the corpus' teachers, and from several"),
    ):
        c = command(name, about)
        c.add_argument("--epochs", type=at_least_1, default=10)
        c.add_argument(
            "--rated", type=Path, required=name == "teachers", help="a rated corpus, as `sqllm evaluate` takes it"
        )
        c.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS")
        c.add_argument("--only", action="append", default=[], metavar="COLUMN=VALUE")
        c.add_argument("--ranks", action="store_true", help="compare ranks: votes may be on any scale")
    c = command("tokens", "more audio tokens: r of a regression head, and the language model's speed")
    c.add_argument("--counts", type=at_least_1, nargs="+", default=[64, 128, 256])
    c.add_argument("--epochs", type=at_least_1, default=10)
    c = add("draws", "what scoring some windows of long calls saves, at what error")
    c.add_argument("calls", nargs="*", help="long recordings")
    c.add_argument("--speech", help="make calls of ten minutes from this clean speech instead")
    c.add_argument("--noise")
    c.add_argument("--speakers", help="CSV with columns path and speaker")
    c.add_argument("--windows", type=at_least_1, nargs="*", default=[4, 8, 16, 32])
    c.add_argument("--until-se", type=float, nargs="*", default=[0.2, 0.1, 0.05])
    c = add("severity", "scores of clean speech with one fault in five steps")
    c.add_argument("--speech", required=True)
    c.add_argument("--noise")
    c.add_argument("--speakers", help="CSV with columns path and speaker")
    c.add_argument("--conditions", type=Path, help="human-rated conditions to print beside it")
    args = parser.parse_args()
    if args.command == "draws" and not (args.calls or args.speech):
        parser.error("give some long recordings, or --speech DIR")
    return argparse.Namespace(**{"model": "embedded", "dtype": "auto", "json": False} | vars(args))


def at_least_1(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def main() -> None:
    args = arguments()
    predictor = Predictor.load(args.model, dtype=args.dtype)
    if args.command == "words":
        result = words(predictor, args.corpus, args.clips, args.withheld, args.verbose)
    elif args.command == "controls":
        result = controls(predictor, args.corpus, args.clips, args.spoken)
    elif args.command == "listeners":
        result = listeners(predictor, args.corpus, args.clips, args.conditions)
    elif args.command in ("head", "encoder", "teachers"):
        control = {"head": head, "encoder": tuned, "teachers": teachers}[args.command]
        result = control(predictor, args.model, args.corpus, args.epochs, rated(args), args.ranks)
    elif args.command == "tokens":
        result = {"audio tokens": tokens(predictor, args.model, args.corpus, args.epochs, args.counts)}
    elif args.command == "draws":
        with tempfile.TemporaryDirectory() as folder:
            calls = args.calls
            if args.speech:
                calls += made(Path(folder), args.speech, args.noise, args.speakers)
            result = draws(predictor, calls, args.windows, args.until_se)
    else:
        result = steps.severity(predictor, args.speech, args.noise, args.speakers)
    if args.json:
        print(json.dumps(result, indent=2))
    elif args.command == "severity":
        print(f"{result['speakers']} speakers that training has not heard; model {predictor.fingerprint}")
        steps.show(result, args.conditions)
    else:
        print(f"model {args.model} {predictor.fingerprint}, {getattr(args, 'corpus', '')}".rstrip(", "))
        report.show(result)


def rated(args: argparse.Namespace) -> list[dict]:
    from sqllm.corpus import manifest

    if not args.rated:
        return []
    for pair in (*args.column, *args.only):
        if "=" not in pair:
            raise UsageError(f"{pair!r} is not of the form NAME=VALUE")
    columns, only = (dict(pair.split("=", 1) for pair in pairs) for pairs in (args.column, args.only))
    return manifest.read(args.rated, columns, only, args.ranks).to_pylist()


if __name__ == "__main__":
    run(main)
