"""A load test of `text2sql serve`: 200 questions by 8 clients of OpenAI's API. None may be lost, and memory stays flat.

    python benchmarks/serve.py [--model models/release] [--questions 200] [--clients 8]

Prints seconds to an answer and the memory of the server after a first round and at the end; status 1 if a question got
no answer, or if memory grew by more than a tenth.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import psutil

DATABASE = Path(__file__).resolve().parents[1] / "examples/shop.sqlite"
QUESTIONS = [
    "How many customers are there?",
    "What are the names of the products that cost more than 50?",
    "Which customer placed the most orders?",
    "How many orders were returned?",
    "Which products have never been ordered?",
    "List the names of all customers from Portugal.",
]
#: growth of the server's memory that is no leak: caches of shapes that were not met before
ALLOWED_GROWTH = 1.1


def start_server(model: str, clients: int) -> tuple[subprocess.Popen[bytes], int]:
    """The server, listening, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "text2sql.cli", "serve", "--model", model, "--sqlite", f"shop={DATABASE}", "--run",
               "--port", str(port), "--queue", str(clients), "--timeout", "600"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, port
        time.sleep(0.2)
    raise RuntimeError("the server did not start")


def ask(client: openai.OpenAI, number: int) -> float | None:
    """Seconds to the answer of a question; None if there was none."""
    started = time.perf_counter()
    messages = [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}]
    try:
        answer = client.chat.completions.create(model="text2sql/shop", messages=messages)  # type: ignore[arg-type]
    except openai.OpenAIError as error:
        print(f"question {number}: {error}", file=sys.stderr)
        return None
    return time.perf_counter() - started if answer.choices[0].message.content else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/release")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    process, port = start_server(given.model, given.clients)
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)
    memory: list[int] = []
    seconds: list[float | None] = []
    started = time.perf_counter()
    try:
        with ThreadPoolExecutor(given.clients) as clients:
            quarter = given.questions // 4
            for numbers in (range(quarter), range(quarter, given.questions)):
                seconds += clients.map(lambda number: ask(client, number), numbers)
                memory.append(psutil.Process(process.pid).memory_info().rss)
        whole = time.perf_counter() - started
    finally:
        process.terminate()
        status = process.wait()
    answered = [s for s in seconds if s is not None]
    print(f"load of the machine after: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"answered                  {len(answered):8d} of {given.questions}, {len(answered) / whole:.1f} a second")
    print(f"seconds, median and most  {statistics.median(answered):8.2f} {max(answered):.2f}")
    print(f"memory, quarter and end   {memory[0] / 1e6:8.0f} {memory[1] / 1e6:.0f} MB")
    print(f"status after SIGTERM      {status:8d}")
    sys.exit(len(answered) < given.questions or memory[1] > ALLOWED_GROWTH * memory[0] or status != 0)


if __name__ == "__main__":
    main()
