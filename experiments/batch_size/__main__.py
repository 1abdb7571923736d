"""What does the batch size change: speed, memory, gradient noise, the number of updates, and what is learned?

The student of `scripts/compare` learns from 3,000 digits (mnist5k) with 8 to 1,024 examples per step, alone and
distilled, both at a constant learning rate and at one that grows with the batch size. All train for the same number of
epochs, so small batches make many more updates: 11,250 at size 8, and 90 at 1,024. Nothing was tuned for a single size;
the learning rate is the one that `scripts/compare` uses at size 64.

For Adam, the learning rate grows with the square root of the batch size [1]: Adam divides the mean gradient by the root
of its mean square, which is mostly noise, and the noise falls with the root of the size. --scaling linear is the rule
for SGD.

Command: scripts/study batch_size. 9 seeds, 279 cells: 67 minutes on two cores that had as much other work to do; the
timing at the end takes 1 minute and was done on a quiet machine. With five seeds no paired difference can reach p <
.05, and with fewer than nine seeds none of eight adjusted ones can.

Found: speed grows with the size, from 8 to 1,024 by a factor of 12 alone and 8 distilled, most of it up to 128. At a
constant rate accuracy falls from 96.4% to 91.7% alone and from 97.0% to 89.7% distilled, because there are ever fewer
updates; with the square-root rule it falls to 94.7% and 94.1%. A dev accuracy of 94% is reached soonest with 64 to 256.
Distillation helps at 8 to 64, and hurts at 1,024, where it has too few updates.

[1] Malladi, Lyu, Panigrahi, Arora 2022, arXiv:2205.10287.
"""

import sys
from collections.abc import Sequence

from distill.studies import command
from experiments.batch_size.config import SMOKE, BatchSize
from experiments.batch_size.study import check, run


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table; returns the exit status."""
    return command(
        "batch_size",
        arguments,
        default=BatchSize(),
        smoke=SMOKE,
        prog="scripts/study batch_size",
        description=__doc__,
        check=check,
        run=run,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
