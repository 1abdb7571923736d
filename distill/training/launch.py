"""Runs a command as several workers of tf.distribute.MultiWorkerMirroredStrategy, on this machine.

Command: scripts/launch --workers 2 --restarts 3 -- python train.py --epochs 10
    Each worker finds the others' loopback addresses, and its own number, in TF_CONFIG. Its lines are printed
    with its number before them. When one dies, the others are stopped, for they cannot go on without it, and
    all are started again: let the program hold a `distill.training.Backup`, with delete_checkpoint=False.
    TensorFlow's workers listen on all of the machine's addresses and ask for no password: not for open networks.
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
from collections.abc import Sequence
from typing import IO

GRACE = 5.0  # seconds from SIGTERM to SIGKILL


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line and runs it; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="scripts/launch",
        usage="%(prog)s [--workers N] [--restarts N] -- command ...",
        description="Runs a command as several workers of tf.distribute.MultiWorkerMirroredStrategy on this "
        "machine, with their addresses in TF_CONFIG. When one dies, all are started again. The exit "
        "status is 0 when all ended with 0, and otherwise that of the first that did not.",
    )
    parser.add_argument(
        "--workers", type=_count(1), default=2, help="processes to run (default: 2)", metavar="N"
    )
    parser.add_argument(
        "--restarts", type=_count(0), default=0, help="times to start all again (default: 0)", metavar="N"
    )
    options = parser.parse_args(arguments[:split])
    command = arguments[split + 1 :]
    if not command:
        parser.error(
            "the command to run comes after --, such as: scripts/launch --workers 2 -- python train.py"
        )
    # As Ctrl-C does, so that a stopped launcher leaves no workers behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return launch(command, options.workers, options.restarts)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        parser.error(f"the command cannot be run: {error}")


def launch(command: Sequence[str], workers: int, restarts: int) -> int:
    """Runs the workers until all end with 0, or until one has died once more than they may be restarted.

    Args:
        command: what each worker runs.
        workers: how many there are.
        restarts: how many times all are started again.

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
    """Runs the workers once; returns the number and return code of the first that failed, or of the last."""
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
                start_new_session=True,  # a group of its own, to be stopped with what it has started
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
            printer.join(GRACE)  # what left its group may hold the pipe open


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends the groups of all workers but those that ended well, whose numbers may be others' by now."""
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
                # One write a line: workers take turns.
                sys.stdout.buffer.write(b"[%d] %s\n" % (number, line.rstrip(b"\n")))
                sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Nobody reads on, as after `| head`. Workers would wait for ever to be read.
        os.kill(os.getpid(), signal.SIGTERM)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        # All are open at once, so that they differ.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def _count(least: int):
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"a whole number >= {least} is needed. Received: {text!r}")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
