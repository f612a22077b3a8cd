"""Tunesmith against HF Trainer and TRL on a CPU: same rows, same weights, fp32, same loss; A/B/A/B in one run.

    make bench CELL=short-lora       (installs the peers too), or with environments at hand:
    python benchmarks/cpu_peers.py --peers /tmp/peers/bin/python --cell short-lora --rounds 2

Each contestant runs in its own process (`benchmarks/contestants.py NAME`); ours is `tunesmith train` itself. First
all take the same eight rows twice as one step, and their losses and gradient norms must agree; then come the rounds.
Kept: learnt tokens a second by wall and by CPU time, peak resident memory, versions, and who was slower or faster.
The table shows each contestant's best round; ratios are of CPU time, which a neighbour on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from cells import CELLS, assets, make_job

HERE = Path(__file__).parent
CONTESTANTS = ("tunesmith", "hf_grouped", "trl_default", "trl_grouped", "trl_packing")
# Ours without what the cell is about; in full tuning at a large vocabulary, with less memory.
ABLATED = dict.fromkeys((c for c in CELLS if "prompt" in c or "expanded" in c), "tunesmith_unshared") | {
    "freeze-3": "tunesmith_uncached",
    "152k-short-full": "tunesmith_recomputed",
}
TOLERANCE = 1e-3  # of losses and norms of the first steps: different orders of summation in fp32


def run(python: str, name: str, job: Path, *options: str) -> dict:
    """One contestant, in its own process."""
    threads = str(json.loads(job.read_text())["threads"])
    done = subprocess.run(
        [python, str(HERE / "contestants.py"), name, str(job), *options],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": threads},
    )  # fmt: skip
    if done.returncode:
        return {"name": name, "error": done.stderr.strip().splitlines()[-3:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def check(job: Path, names: list[str], pythons: dict[str, str]) -> list[dict]:
    """The first steps of everybody on the same rows; `agrees` compares with ours."""
    found = [{"check": True, **run(pythons[name], name, job, "--check")} for name in names]
    ours = found[0]
    for result in found:
        if "error" not in result:
            pairs = [*zip(ours["losses"], result["losses"]), *zip(ours["norms"], result["norms"])]
            result["agrees"] = all(abs(a - b) <= TOLERANCE * abs(a) for a, b in pairs)
    return found


def main() -> None:
    """Run the cells asked for and write JSON and a table beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=sys.executable, help="python that has trl and datasets")
    parser.add_argument(
        "--llama-factory", help="python that has llamafactory; it pins older releases of all others"
    )
    parser.add_argument("--cell", action="append", choices=CELLS)
    parser.add_argument("--contestant", action="append", help=f"of {', '.join(CONTESTANTS)}, hf_default, ...")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/bench"))
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / f"cpu-{datetime.date.today().isoformat()}"
    )
    asked = parser.parse_args()
    names = ["tunesmith", *(name for name in asked.contestant or CONTESTANTS if name != "tunesmith")]
    pythons = dict.fromkeys(names, asked.peers) | dict.fromkeys(
        ("tunesmith", *ABLATED.values()), sys.executable
    )
    if asked.llama_factory:
        names.append("llama_factory")
        pythons["llama_factory"] = asked.llama_factory
    kept = asked.out.with_suffix(".json")
    results = json.loads(kept.read_text()) if kept.exists() else []
    for cell in asked.cell or CELLS:
        job = make_job(cell, asked.rows, asked.threads, (asked.work / cell).resolve())
        results = [result for result in results if result["cell"] != cell]
        racing = [*names, ABLATED[cell]] if cell in ABLATED else names
        found = check(job, racing, pythons)
        for number in range(asked.rounds):
            found += [{"round": number, **run(pythons[name], name, job)} for name in racing]
        results += [
            {"cell": cell, "rows": asked.rows, "threads": asked.threads, **result} for result in found
        ]
        for result in found:
            print(json.dumps({"cell": cell, **result}), file=sys.stderr)
        kept.write_text(json.dumps(results, indent=1) + "\n")
    head = (
        f"{datetime.date.today().isoformat()}, {processor()}, {os.cpu_count()} cores, fp32, "
        f"{'real rows' if assets() else 'made-up rows of like lengths'}; ratios are of CPU time, best round of each."
    )
    asked.out.with_suffix(".md").write_text(f"# CPU, against peers\n\n{head}\n\n{summary(results)}\n")
    print(summary(results))


def processor() -> str:
    """Its name and widest vectors: which library multiplies depends on them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    found = [flag for flag in ("avx2", "avx512f", "amx_bf16") if flag in about.get("flags", "").split()]
    return " ".join(
        [about.get("model name", platform.machine()), f"family {about.get('cpu family')}", *found[-1:]]
    )


def summary(results: list[dict]) -> str:
    """Best round of each contestant, and how many times faster Tunesmith is: by CPU time and by the clock."""
    lines = [
        "| cell | contestant | learnt tokens/s | a CPU second | peak MiB | first losses | norms | same | "
        "Tunesmith is (CPU) | (wall) |",
        "|---|---|--:|--:|--:|---|---|---|--:|--:|",
    ]
    for cell in dict.fromkeys(result["cell"] for result in results):
        mine = [result for result in results if result["cell"] == cell and "error" not in result]
        checks = {result["name"]: result for result in mine if result.get("check")}
        rounds = [result for result in mine if "round" in result]
        names = dict.fromkeys(result["name"] for result in rounds)
        wall, cpu, peak = (
            {name: pick(r[key] for r in rounds if r["name"] == name) for name in names}
            for pick, key in (
                (max, "targets_per_second"),
                (max, "targets_per_cpu_second"),
                (min, "peak_bytes"),
            )
        )
        for name in names:
            first = checks.get(name, {"losses": [], "norms": [], "version": "?"})
            losses, norms = (" ".join(f"{x:.4f}" for x in first[key][:2]) for key in ("losses", "norms"))
            lines.append(
                f"| {cell} | {name} ({first['version']}) | {wall[name]:.0f} | {cpu[name]:.0f} | "
                f"{peak[name] / 2**20:.0f} | {losses} | {norms} | {'yes' if first.get('agrees') else 'NO'} | "
                f"{cpu['tunesmith'] / cpu[name]:.2f}x | {wall['tunesmith'] / wall[name]:.2f}x |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
