"""`python -m sqllm.training features|scores CORPUS --bases DIR --out DIR`: see `--help`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sqllm.model import store
from sqllm.model.config import ModelConfig
from sqllm.training import features, scores
from sqllm.training.data import read


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sqllm.training", description=__doc__)
    parser.add_argument("what", choices=["features", "scores"])
    parser.add_argument("corpus", type=Path, help="shards of sqllm.corpus.simulate")
    parser.add_argument("--bases", type=Path, required=True, help="the folder with config.json and the base models")
    parser.add_argument("--out", type=Path, help="checkpoints, and the trained model")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--worker", default="0/1", help="features: k/n, this process does every n-th shard from the k-th"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = ModelConfig.load(args.bases)
    if args.what == "features":
        encoder = store.load_encoder(config, args.bases).eval()
        encoder.model.to(torch.bfloat16)
        print(features.prepare(encoder, args.corpus, *map(int, args.worker.split("/"))), "shards")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    model = store.create(config, args.bases, torch.bfloat16).train()
    scores.train(model, read(args.corpus), args.out, args.steps, args.batch, args.lr)
    store.save(model, args.out, args.bases)


if __name__ == "__main__":
    main()
