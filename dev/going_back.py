"""What going back brings (docs/PREDICTION.md): the validation questions of a workspace, answered and judged.

    python -m dev.going_back [--unlikely 0 0.01 0.05 0.1]

The working directory has run the pipeline up to train. Its data/prompts/val.jsonl are answered greedily,
held to the schema, once for each probability below which a token is unlikely; 0 stands for never going back.
"""

from __future__ import annotations

import argparse
import math
import time

from stages import predict
from text2sql.config import read_params
from text2sql.model import generation, sampling
from text2sql.model.prediction import GREEDY
from text2sql.model.prompt import encode_prompt, read_questions
from text2sql.postgres.load import loaded_sandbox
from text2sql.postgres.sandbox import Limits
from text2sql.scoring.judge import judge
from text2sql.workspace import DUMPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unlikely", type=float, nargs="+", default=[0.0, 0.01, 0.05, 0.1], help="probabilities")
    given = parser.parse_args()
    predict.prepare()
    predictor, constrain = predict.load_predictor(predict.read_options(read_params()))
    questions = read_questions("val")
    rows = [{**row, "tokens": encode_prompt(predictor.tokenizer, row["prompt"])} for row in questions]
    rows.sort(key=lambda row: row["db_id"])
    with loaded_sandbox(sorted({row["db_id"] for row in rows}), DUMPS, Limits(), 1) as sandbox:
        for unlikely in given.unlikely:
            sampling.UNLIKELY = generation.UNLIKELY = math.log(unlikely) if unlikely else -math.inf
            generation.RETURNS = 8 if unlikely else 0
            started = time.perf_counter()
            answers = {row["id"]: row["predicted"] for row in predictor.answers(rows, constrain, GREEDY)}
            seconds = time.perf_counter() - started
            verdicts = [judge(sandbox, row["db_id"], row["sql"], answers[row["id"]]).suite.correct for row in rows]
            print(f"unlikely below {unlikely}: {sum(verdicts)} of {len(rows)} right, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
