"""Speed of this machine, of every update, of the whole loop, and of the peers: docs/speed.md.

    python -m benchmarks.speed --out results/speed/NAME.json   # all of ours
    python -m benchmarks.speed --quick                         # a look: three updates, two loops
    python -m benchmarks.speed peers --env-dir DIR             # against other libraries
    python -m benchmarks.speed scaling                         # cost as work grows
    python -m benchmarks.speed startup                         # seconds to the first updates alone
    python -m benchmarks.speed acting --cores 2                # what an OnlineLearner's robot waits

from the repository root.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.speed import measure

PARTS = ("ours", "peers", "scaling", "startup", "acting")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", default="ours", choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="short measurements, fewer of them")
    parser.add_argument("--cores", type=int, default=1, help="run on so many cores (default: 1)")
    parser.add_argument("--repetitions", type=int, help="default: 5, with --quick 2")
    parser.add_argument("--out", type=Path, help="write what was measured to this JSON file")
    parser.add_argument("--env-dir", type=Path, help="of peers: where their environments lie")
    parser.add_argument(
        "--seconds",
        type=float,
        help="of ours and acting: a measurement's length; default: 2, with --quick 0.3",
    )
    args = parser.parse_args()
    if args.part == "peers" and args.env_dir is None:
        parser.error("peers needs --env-dir DIR; their packages are installed there")
    args.seconds = args.seconds or (0.3 if args.quick else 2.0)
    args.repetitions = args.repetitions or (2 if args.quick else 5)
    return args


def main() -> None:
    args = arguments()
    measure.pin(args.cores)  # before JAX is imported, which counts the cores

    import jax

    from benchmarks.speed import acting, everything, peers, scaling, tables
    from spaars.training.provenance import git_revision, versions

    if measure.one_core() and jax.default_backend() != "cpu":
        raise SystemExit("on an accelerator wall time counts: give --cores 2 or more")
    record = {
        "command": measure.command(sys.argv[1:]),
        "git_revision": git_revision(),
        "machine": measure.machine() | {"devices": [d.device_kind for d in jax.devices()]},
        "versions": versions(),
        "clock": "processor time on one core"
        if measure.one_core() and args.part != "acting"
        else "wall time",
        "repetitions": args.repetitions,
    }

    def say(what: str) -> None:
        print(f"measuring: {what}", file=sys.stderr, flush=True)

    if args.part == "ours":
        parts = everything.run(args.quick, args.repetitions, args.seconds, say)
    elif args.part == "peers":
        parts = peers.run(args.env_dir, args.quick, args.repetitions, say)
    elif args.part == "scaling":
        parts = scaling.run(args.quick, say)
    elif args.part == "startup":
        parts = everything.startup(args.repetitions, say)
    else:
        parts = acting.run(args.quick, args.seconds, say)
    for part in parts:
        record |= part
        record["machine"]["load_average_after"] = measure.machine()["load_average"]
        if args.out:  # now: an interrupted run keeps what it has measured
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(getattr(tables, args.part)(record))
    if args.out and args.part == "scaling":
        scaling.plot(record, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
