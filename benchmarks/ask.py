"""Seconds to an answer: `text2sql ask` from its start, the next ones, of 500 tables, two visitors of the demo at once;
and the next ones where the schema is read again for each.

    python benchmarks/ask.py [--model models/release]

The schema has ten tables, or ten and 490 others. The first figure is of a fresh process, imports and loading included;
the others are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

SCHEMA = """
CREATE TABLE regions (id int PRIMARY KEY, name text);
CREATE TABLE customers (id int PRIMARY KEY, name text, city text, region_id int REFERENCES regions);
CREATE TABLE suppliers (id int PRIMARY KEY, name text, country text);
CREATE TABLE categories (id int PRIMARY KEY, name text);
CREATE TABLE products (id int PRIMARY KEY, name text, price numeric, category_id int REFERENCES categories,
                       supplier_id int REFERENCES suppliers);
CREATE TABLE employees (id int PRIMARY KEY, name text, hired date, salary numeric, region_id int REFERENCES regions);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customers, employee_id int REFERENCES employees,
                     placed date, status text);
CREATE TABLE order_items (id int PRIMARY KEY, order_id int REFERENCES orders, product_id int REFERENCES products,
                          quantity int, price numeric);
CREATE TABLE payments (id int PRIMARY KEY, order_id int REFERENCES orders, paid date, amount numeric, method text);
CREATE TABLE reviews (id int PRIMARY KEY, product_id int REFERENCES products, customer_id int REFERENCES customers,
                      stars int, written date);
"""
AREAS = """warehouse billing payroll fleet legal marketing quality energy training recruiting insurance security hotel
kitchen garden clinic laboratory library theatre stadium airport harbour railway factory farm""".split()  # noqa: SIM905
THINGS = (
    "shifts",
    "tasks",
    "notes",
    "alerts",
    "budgets",
    "files",
    "rooms",
    "tools",
    "audits",
    "plans",
    "visits",
    "keys",
)
#: 500 names; 490 of them and the ten tables above make 500 tables
OTHERS = [f"{area}_{thing}" for area in AREAS for thing in THINGS] + [f"{area}_{y}" for area in AREAS for y in range(8)]
OTHER = "CREATE TABLE {name} (id int PRIMARY KEY, label text, opened date, closed date, weight numeric, remark text);"
QUESTIONS = [
    "How many customers are there?",
    "What are the names of the products that cost more than 100?",
    "Which customer placed the most orders?",
    "What is the average salary of the employees in each region?",
    "Which products have never been reviewed?",
    "List the names of all suppliers from France.",
]


def ask(model: str, others: int = 0) -> tuple[float, list[float]]:
    """Seconds to the first answer of a fresh process, and of each later answer, with so many other tables."""
    with tempfile.TemporaryDirectory() as folder:
        schema = Path(folder) / "shop.sql"
        schema.write_text(SCHEMA + "\n".join(OTHER.format(name=name) for name in OTHERS[:others]))
        command = [sys.executable, "-m", "text2sql.cli", "ask", "--schema", str(schema), "--model", model, "--json"]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes")
        seconds = []
        for question in QUESTIONS:
            process.stdin.write(f"{question}\n")
            process.stdin.flush()
            json.loads(process.stdout.readline())
            seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
        process.stdin.close()
        process.wait()
    return seconds[0], seconds[1:]


def read_again(model: str) -> tuple[float, float]:
    """Median seconds of the later questions, one after the other with the schema kept and with it read again."""
    from text2sql.ask import Engine, schema
    from text2sql.model.shared_prefix import KeptPrefixes

    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(SCHEMA)
        file.flush()
        engine, shop = Engine.load(model), schema(file.name)
    engine.ask(QUESTIONS[0], shop)
    kept = engine._kept

    def seconds(question: str, prefixes: KeptPrefixes | None) -> float:
        engine._kept, started = prefixes, time.perf_counter()
        engine.ask(question, shop)
        return time.perf_counter() - started

    pairs = [(seconds(question, kept), seconds(question, KeptPrefixes())) for question in QUESTIONS[1:]]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def demo(model: str) -> tuple[float, int]:
    """The median answer of two visitors who ask at once, and the memory of the demo with its PostgreSQL in bytes."""
    from gradio_client import Client

    from app.databases import TITLES
    from text2sql.data.mini.domain import load_folder

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "app.demo", "--model", model, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    questions = {d.db_id: [question for question, _ in d.questions] for d in load_folder("demo")}

    def visit(domain: str) -> list[float]:
        client, seconds = Client(f"http://127.0.0.1:{port}", verbose=False), []
        for question in questions[domain]:
            started = time.perf_counter()
            client.predict(question, TITLES[domain], "", api_name="/ask")
            seconds.append(time.perf_counter() - started)
        return seconds

    try:
        wait_for(port, process)
        with ThreadPoolExecutor(2) as visitors:
            seconds = [s for part in visitors.map(visit, ["ecommerce", "finance"]) for s in part]
        whole = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        # Pages shared between PostgreSQL's processes count once: proportional set size
        memory = sum(p.memory_full_info().pss for p in whole)
    finally:
        process.terminate()
        process.wait()
    return statistics.median(seconds), memory


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the demo answers."""
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError("the demo did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/release")
    model = parser.parse_args().model
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    first, later = ask(model)
    print(f"first answer, from the start of the process   {first:6.1f} s")
    print(f"next answers, ten tables, median              {statistics.median(later):6.1f} s (at most {max(later):.1f})")
    _, later = ask(model, 490)
    print(f"next answers, 500 tables, median              {statistics.median(later):6.1f} s (at most {max(later):.1f})")
    kept, again = read_again(model)
    print(f"next answers, ten tables, schema kept         {kept:6.2f} s (read again for each: {again:.2f})")
    answer, memory = demo(model)
    print(f"demo, two visitors at once, median            {answer:6.1f} s")
    print(f"demo, memory with PostgreSQL                  {memory / 1e9:6.2f} GB")


if __name__ == "__main__":
    main()
