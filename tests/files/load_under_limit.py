"""Load files under a limit of memory, for the tests of hostile files; run as `python load_under_limit.py GOOD`.

GOOD is a file that loads. It is loaded first, so that whatever Keras imports and starts on first use is not measured.
Each line of standard input is a path. Each line of standard output is JSON: the errors of load_model and of
load_weights, and the peak of memory in MB above what the process took before the first path.
"""

import contextlib
import gc
import json
import os
import resource
import sys
from pathlib import Path

sys.path.insert(0, "")  # the working directory, in which each file may find modules to import

import keras_hub  # noqa: F401 (importing it takes memory of its own)

import distill

# The tests assert the peak. The limit spares the machine when one of them fails. It also hides a file that asks for
# more: that gets an error and takes nothing. So each kind of hostile file needs an example that asks for less.
LIMIT = 4 * 2**30


def status(field):
    """A size of this process in bytes, by its name in /proc/self/status."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:")
    ]
    return int(line.split()[1]) * 1024


def attempt(load, path):
    """The error's text, or `None`."""
    try:
        load(path)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(good):
    """Answer until standard input ends."""
    model = distill.load_model(good)
    distill.load_weights(model, good)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = status("VmSize") + LIMIT
    resource.setrlimit(
        resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
    )
    gc.collect()
    gc.freeze()  # what is imported is there for good: no collection below need walk over it
    before = status("VmHWM")
    for line in sys.stdin:
        path = json.loads(line)
        os.chdir(Path(path).parent)
        gc.collect()
        with contextlib.suppress(OSError):  # without this, the peak is that of all paths so far
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        errors = [attempt(distill.load_model, path), attempt(lambda p: distill.load_weights(model, p), path)]
        print(json.dumps({"errors": errors, "peak": (status("VmHWM") - before) / 1e6}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
