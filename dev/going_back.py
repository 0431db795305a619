"""What going back brings (docs/PREDICTION.md): the validation questions of a workspace, answered and judged.

    python -m dev.going_back [--unlikely 0 0.01 0.05 0.1]

The working directory has run the pipeline up to train. Its validation questions are answered greedily, held to the
schema, once for each probability below which a token is unlikely; 0 stands for never going back.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time

from stages import predict, train
from text2sql.config import read_params
from text2sql.model import generation, sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unlikely", type=float, nargs="+", default=[0.0, 0.01, 0.05, 0.1], help="probabilities")
    given = parser.parse_args()
    predict.prepare()
    params = read_params()
    predictor, _ = predict.load_predictor(predict.read_options(params))
    options = train.read_options(params)
    every = dataclasses.replace(options.recipe.train, choose_questions=sys.maxsize)
    options = dataclasses.replace(options, recipe=dataclasses.replace(options.recipe, train=every))
    returns = generation.RETURNS
    for unlikely in given.unlikely:
        sampling.UNLIKELY = generation.UNLIKELY = math.log(unlikely) if unlikely else -math.inf
        generation.RETURNS = returns if unlikely else 0
        started = time.perf_counter()
        right = train.validation_accuracy(options, predictor.tokenizer, predictor.model)
        seconds = time.perf_counter() - started
        print(f"unlikely below {unlikely}: {100 * right:.1f} % right, {seconds:.0f} s with their verdicts", flush=True)


if __name__ == "__main__":
    main()
