"""Damaged inputs at random: ``python -m tests.fuzz --seed 1 --count 1000``, from the root of the repository.

Configurations, saved models, structures of many formats, labels, arrays, plans, settings, commands and folders of runs
are damaged, one or two places in each, and handed to what reads them (`fuzz_inputs`, `fuzz_more`). Every input must be
refused with a message of lesjax within seconds, or give finite results; one in seven is certainly wrong (`fuzz_wrong`)
and must be refused. What is counted as right is the kinds "accepted" and "refused"; the exit status is 1 where there is
any other.

A worker process runs the inputs one after the other under a limit of memory and tells each kind; the parent kills one
that hangs and starts another behind the input that it was at. Time that XLA compiles does not count.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any


TIME_LIMIT, KILL_AFTER, MEMORY_LIMIT = 3.0, 20.0, 24e9
RIGHT = ("accepted", "refused")
Kinds = dict[str, collections.Counter]


def run(case: Callable[[random.Random], None], rng: random.Random) -> tuple[str, str]:
    """Kind of what happens with an input, and more about it."""
    from fuzz_inputs import Refused, Wrong

    try:
        case(rng)
    except Wrong as error:
        return "silent", str(error)[:300]
    except Refused as error:
        return "refused", str(error)[:300]
    except MemoryError as error:
        return "memory", repr(error)[:300]
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = isinstance(error, ValueError | TypeError | OSError | ArithmeticError) and len(str(error)) > 10
        if told and f"{os.sep}lesjax{os.sep}" in place.filename and "raise" in (place.line or ""):
            return "refused", str(error)[:300]
        return "traceback", f"{type(error).__name__}: {str(error)[:200]} ({place.filename}:{place.lineno})"
    return "accepted", ""


def work(seed: int, start: int, count: int) -> None:
    """Run inputs and print a line of JSON before and after each."""
    import resource
    import warnings

    resource.setrlimit(resource.RLIMIT_AS, (int(MEMORY_LIMIT), int(MEMORY_LIMIT)))
    sys.path.insert(0, str(pathlib.Path(__file__).parent))  # for the modules beside this one
    import jax
    import jax.monitoring

    from fuzz_more import Fuzz

    cache = os.environ.get("LESJAX_TEST_CACHE") or pathlib.Path.home() / ".cache" / "lesjax-tests"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    warnings.simplefilter("ignore")
    compiling = [0.0]

    def listen(event: str, seconds: float, **_: Any) -> None:
        if "compile" in event and "saved" not in event:
            compiling[0] += seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(pathlib.Path(folder))
        for number in range(start, count):
            rng = random.Random(f"{seed}/{number}")
            case = rng.choice(fuzz.cases())
            print(json.dumps({"begun": number, "case": case.__name__}), flush=True)
            begin, before = (time.perf_counter(), time.process_time()), compiling[0]
            kind, detail = run(case, rng)
            # a machine that others share counts only what this process has worked
            passed = min(time.perf_counter() - begin[0], time.process_time() - begin[1])
            seconds = passed - (compiling[0] - before)
            if seconds > TIME_LIMIT:
                kind, detail = "hang", f"{seconds:.1f} s, then {kind}: {detail}"
            print(json.dumps({"done": number, "case": case.__name__, "kind": kind, "detail": detail}), flush=True)


def fuzz(
    seed: int, count: int, *, verbose: bool = False
) -> tuple[dict[str, collections.Counter], list[dict[str, Any]]]:
    """Run inputs in worker processes; gives the numbers of each kind by cases, and the inputs that are not right."""
    cases, wrong, start = collections.defaultdict(collections.Counter), [], 0
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PYTHONPATH"] = os.pathsep.join([os.getcwd(), *sys.path])
    while start < count:
        options = ["--seed", str(seed), "--count", str(count), "--start", str(start)]
        command = [sys.executable, "-m", "tests.fuzz", *options]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert worker.stdout is not None
        current: dict[str, Any] | None = None
        patience = 600.0  # for imports and two short runs
        while True:
            ready, _, _ = select.select([worker.stdout], [], [], patience)
            line = worker.stdout.readline() if ready else ""
            if not line:
                break
            record = json.loads(line)
            patience = KILL_AFTER + 40.0  # what is compiled cannot be told from here
            if "begun" in record:
                current = record
                continue
            current, start = None, record["done"] + 1
            cases[record["case"]][record["kind"]] += 1
            if record["kind"] not in RIGHT or verbose:
                wrong += [record] if record["kind"] not in RIGHT else []
                print(json.dumps(record), file=sys.stderr)
        if worker.poll() is None and current is not None:
            worker.send_signal(signal.SIGKILL)
        status = worker.wait()
        worker.stdout.close()
        if current is None and status == 0:
            break
        if current is None:
            raise RuntimeError(f"The worker ended with status {status} between two inputs.")
        kind = "crash" if ready else "hang"
        cases[current["case"]][kind] += 1
        wrong.append(current | {"kind": kind, "detail": f"status {status}"})
        print(json.dumps(wrong[-1]), file=sys.stderr)
        start = current["begun"] + 1
    return cases, wrong


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, help="run from this input on in this process, for one that went wrong")
    parser.add_argument("--json", help="add the numbers of each kind to this file")
    parser.add_argument("--verbose", action="store_true", help="print every input")
    parsed = parser.parse_args()
    if parsed.start is not None:
        work(parsed.seed, parsed.start, parsed.count)
        return 0
    cases, wrong = fuzz(parsed.seed, parsed.count, verbose=parsed.verbose)
    kinds = sum(cases.values(), collections.Counter())
    numbers = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    print(f"seed {parsed.seed}: {sum(kinds.values())} inputs, {numbers}")
    if parsed.json is not None:
        path = pathlib.Path(parsed.json)
        runs = json.loads(path.read_text()) if path.exists() else {}
        runs[f"seed {parsed.seed}"] = {
            "command": f"python -m tests.fuzz --seed {parsed.seed} --count {parsed.count} --json {parsed.json}",
            "kinds": dict(sorted(kinds.items())),
            "cases": {name: dict(sorted(counter.items())) for name, counter in sorted(cases.items())},
            "wrong": wrong,
        }
        path.write_text(json.dumps(runs, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
