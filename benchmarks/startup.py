"""Seconds until `import kdtutor` is done, over those of `import torch`, each in a fresh interpreter.

python benchmarks/startup.py
"""

import subprocess
import sys
import time

from measure import arguments, ratio, verdict, write_record

TARGET = 1.1
STATEMENTS = ("import torch", "import kdtutor", "import torch, kdtutor.losses", "import kdtutor.train")


def seconds_of(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


def main():
    options = arguments(__doc__)
    statements = STATEMENTS[:2] if options.quick else STATEMENTS
    rounds = [{statement: seconds_of(statement) for statement in statements} for _ in range(1 if options.quick else 9)]
    seconds = {statement: [one[statement] for one in rounds[1:] or rounds] for statement in statements}
    result = {statement: ratio(seconds[statement], seconds["import torch"]) for statement in statements[1:]}
    print(f"import kdtutor                  {verdict(result['import kdtutor'], TARGET)}, in times of import torch")
    for statement in statements[2:]:
        print(f"{statement:<31} {result[statement]:.2f}")
    write_record(options, "startup", {"times_import_torch": result, "target": TARGET})


if __name__ == "__main__":
    main()
