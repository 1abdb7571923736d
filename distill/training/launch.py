"""Runs a command as several workers of tf.distribute.MultiWorkerMirroredStrategy, on this machine.

    python -m distill.training.launch --workers 2 --restarts 3 -- python train.py --epochs 10

Each worker finds its own number and the addresses of all workers in TF_CONFIG. The launcher shows each line
that a worker prints, with the worker's number in front. When a worker dies, the others cannot continue, so
the launcher stops all of them and starts them again, up to --restarts times. To continue where it stopped,
the program needs a `distill.training.Backup` with delete_checkpoint=False.

TensorFlow's workers listen on all addresses of the machine and ask for no password: do not use this on an open network.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

GRACE = 5.0  # seconds from SIGTERM to SIGKILL


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and runs it; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m distill.training.launch",
        usage="%(prog)s [--workers N] [--restarts N] -- command ...",
        description="Runs a command as several workers of tf.distribute.MultiWorkerMirroredStrategy on this machine, "
        "with their addresses in TF_CONFIG. When one dies, all are started again. The exit status is 0 if all workers "
        "ended with 0, and otherwise that of the first that did not.",
    )
    parser.add_argument(
        "--workers", type=_at_least(1), default=2, help="number of processes (default: 2)", metavar="N"
    )
    parser.add_argument(
        "--restarts",
        type=_at_least(0),
        default=0,
        help="number of times that all are started again (default: 0)",
        metavar="N",
    )
    options = parser.parse_args(arguments[:split])
    command = arguments[split + 1 :]
    if not command:
        parser.error(
            f"the command to run must follow --, as in: {parser.prog} --workers 2 -- python train.py"
        )
    # Like Ctrl-C, so that a launcher that is stopped leaves no workers behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return launch(command, workers=options.workers, restarts=options.restarts)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        parser.error(f"the command cannot be run: {error}")


def launch(command: Sequence[str], *, workers: int, restarts: int) -> int:
    """Runs the workers until all end with 0, or until one dies and no restart is left.

    Args:
        command: command of each worker.
        workers: number of workers.
        restarts: how many times all workers may be started again.

    Returns:
        0, or the exit status of the worker that died first in the last attempt; 128 + n for signal n.

    Raises:
        OSError: the command cannot be run.
    """
    attempt = 0
    while True:
        died, code = _attempt(command, workers)
        if code == 0:
            return 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        attempt += 1
        then = f"starting all again, {attempt} of {restarts}" if attempt <= restarts else "stopped all"
        print(f"launch: worker {died} {how}: {then}", file=sys.stderr, flush=True)
        if attempt > restarts:
            return code if code > 0 else 128 - code


def _attempt(command: Sequence[str], workers: int) -> tuple[int, int]:
    """Runs the workers once; returns number and return code of the first that failed, or of the last."""
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(workers)]
    ended: queue.Queue[tuple[int, int]] = queue.Queue()
    processes: list[subprocess.Popen[bytes]] = []
    printers: list[threading.Thread] = []
    try:
        for number in range(workers):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
            process = subprocess.Popen(
                command,
                env={**os.environ, "TF_CONFIG": json.dumps(task), "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group, which is stopped with everything that was started in it
            )
            processes.append(process)
            printers.append(threading.Thread(target=_print_lines, args=(number, process.stdout), daemon=True))
            printers[-1].start()
            threading.Thread(target=lambda n=number, p=process: ended.put((n, p.wait())), daemon=True).start()
        for _ in range(workers):
            number, code = ended.get()
            if code != 0:
                break
        return number, code
    finally:
        _stop(processes)
        for printer in printers:
            printer.join(GRACE)  # a process that left its group may keep the pipe open


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends the groups of all workers, except those that ended well: their ids may belong to other processes by now."""
    failed = [process for process in processes if process.poll() != 0]
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        for process in failed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + GRACE
        for process in failed:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(None if seconds is None else max(0.0, deadline - time.monotonic()))


def _print_lines(number: int, lines: IO[bytes]) -> None:
    try:
        with lines:
            for line in lines:
                # One write per line, so that workers do not interrupt each other.
                sys.stdout.buffer.write(b"[%d] %s\n" % (number, line.rstrip(b"\n")))
                sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Nobody reads any more, as after `| head`. The workers would wait forever for their pipes to be read.
        os.kill(os.getpid(), signal.SIGTERM)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        # All are open at once, so that they differ.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number >= {least}. Received: {text!r}")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
