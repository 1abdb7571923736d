"""What does the batch size do: to speed, memory, gradient noise, number of updates, and to what is learned?

The student of `scripts/compare` learns 3,000 digits (mnist5k) with 8 to 1,024 examples a step, alone and distilled,
at one learning rate for all sizes and at one that grows with the size. All train for the same number of epochs, so
small batches make many more updates: 11,250 at size 8, 90 at 1,024. No choice was made for a size of its own; the
learning rate is the one that `scripts/compare` uses at 64.

For Adam the rate grows with the square root of the size [1]: it divides the mean gradient by the root of the mean
square, most of which is noise, and noise falls with the root of the size. --scaling linear is the rule for SGD.

Command: scripts/study batch_size. 9 seeds, 279 cells: 67 minutes on two cores that had as much other work; the timing
    at the end, 1 minute, on a quiet machine. Nine seeds, since with five no paired difference can reach p < .05, and
    with fewer than nine none of eight adjusted ones.
Found: speed grows to the end, 12 times from 8 to 1,024 alone and 8 times distilled, most of it up to 128. At a
    constant rate accuracy falls from 96.4 to 91.7 % alone and from 97.0 to 89.7 % distilled, since there are ever fewer
    updates; with the square root of the size it falls to 94.7 and 94.1 %. Dev accuracy of 94 % is there soonest at 64
    to 256. Distilling helps at 8 to 64 and harms at 1,024, where it has too few updates.

[1] Malladi, Lyu, Panigrahi, Arora 2022, arXiv:2205.10287.
"""

import sys
from collections.abc import Sequence

from distill.studies import command
from experiments.batch_size.config import SMOKE, BatchSize
from experiments.batch_size.study import check, run


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table."""
    return command(
        "batch_size",
        arguments,
        default=BatchSize(),
        smoke=SMOKE,
        prog="scripts/study batch_size",
        description=__doc__,
        check=check,
        work=run,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
