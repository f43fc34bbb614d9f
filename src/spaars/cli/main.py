"""`spaars`: dispatches to one file per command and words the errors."""

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from spaars.data.files import cache_dir
from spaars.errors import SpaarsError, unknown_name

USAGE = """\
usage: spaars COMMAND ...

  train TASK            learn from logged data, then online; leaves a run directory
  resume RUN            go on with an interrupted run, bit for bit
  eval RUN|POLICY       evaluate a run's last checkpoint, or an exported policy
  export RUN            write a run's policy as one file, for numpy alone or as ONNX
  video RUN|POLICY      render an episode
  bench SUITE           run a suite of tasks, variants and seeds; skips what is done
  report RUN            rebuild a run's figures and report.html
  report RUN... --out PAGE.html
                        compare runs on one page
  strip RUN             draw an episode, or what latents do, as stick figures
  data make TASK        record the task's embedded dataset into the cache
  data make-behaviour TASK
                        train the policy that the embedded dataset is recorded from
  data convert SOURCE DESTINATION
                        write any dataset as one .npz or .hdf5 file, or a directory
  data convert kitchen-demos DEMOS DESTINATION
                        replay human kitchen demonstrations in the simulator
  data inspect SOURCE|TASK
                        what is in a dataset, and what is wrong with it
  theory gap --lq|RUN   what a decoder costs, and the bounds on it
  theory variance --lq|RUN
                        variance of policy gradients in latents and in raw actions
  theory gated --lq     what a gate gains or costs whose critics err
  theory handover RUN...
                        cloning error against the dip after the hand-over, over runs

`spaars COMMAND --help` explains every flag. `--debug` anywhere shows tracebacks.
"""

# Modules are imported when their command runs: `spaars --help` must not wait for JAX.
COMMANDS = {
    ("train",): "spaars.cli.train",
    ("resume",): "spaars.cli.resume",
    ("eval",): "spaars.cli.eval",
    ("export",): "spaars.cli.export",
    ("video",): "spaars.cli.video",
    ("bench",): "spaars.cli.bench",
    ("report",): "spaars.cli.report",
    ("strip",): "spaars.cli.strip",
    ("data", "make"): "spaars.cli.data_make",
    ("data", "make-behaviour"): "spaars.cli.data_make_behaviour",
    ("data", "convert"): "spaars.cli.data_convert",
    ("data", "inspect"): "spaars.cli.data_inspect",
    ("theory", "gap"): "spaars.cli.theory_gap",
    ("theory", "variance"): "spaars.cli.theory_variance",
    ("theory", "gated"): "spaars.cli.theory_gated",
    ("theory", "handover"): "spaars.cli.theory_handover",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 a suite's run failed, 2 bad input, 130 stopped, 141 pipe.

    The last is of an output that nobody reads any more.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    if not debug:
        warnings.showwarning = _one_line_warning
    args = [arg for arg in args if arg != "--debug"]
    sys.exit(exit_code_of(lambda: _dispatch(args), debug))


def _one_line_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"spaars: warning: {message}", file=sys.stderr)


def exit_code_of(command: Callable[[], int | None], debug: bool = False) -> int:
    """Run `command`; what a person can mend becomes one line on stderr, not a traceback."""
    try:
        code = command() or 0
        sys.stdout.flush()  # a closed pipe is told here, not while the interpreter ends
        return code
    except SpaarsError as error:
        if debug:
            raise
        print(f"spaars: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has seen enough, as `head` has: no error, and nothing to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        # Full disk, no permission: the system's words name the file.
        if debug:
            raise
        where = f": {error.filename}" if error.filename else ""
        print(f"spaars: error: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        if debug and not stop.args:
            raise
        print(f"spaars: {stop or 'stopped; nothing was saved'}", file=sys.stderr)
        return 130


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"spaars {version('spaars')}")
        return 0
    words = 2 if args[0] in ("data", "theory") else 1
    name = tuple(args[:words])
    if name in (("data",), ("theory",)) or name[-1] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if name not in COMMANDS:
        raise unknown_name("command", " ".join(name), [" ".join(c) for c in COMMANDS])
    # Do not grab the whole GPU: people share it with a viewer or a second run.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Compiling takes longer than a smoke run computes; a second run reads it from disk.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    return importlib.import_module(COMMANDS[name]).run(args[words:]) or 0


if __name__ == "__main__":
    main()
