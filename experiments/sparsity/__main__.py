"""How many weights of a CNN can go, and what decides it: when to prune, what to keep, or how to recover?

A CNN learns 3,000 digits (mnist5k). From 50 to 98 % of its weights are then set to zero, by magnitude over all layers:
at once, or little by little; recovering on the labels, or with the unpruned network as the teacher; going on from the
trained weights, or from those after the first epoch (the lottery ticket, rewound). Zeros at random places are the
baseline for where, and the unpruned network trained for as long is the one for how long. Test is read once.

Command: scripts/study sparsity. 8 seeds, 256 cells, 42 minutes on two cores.
Expected, accuracy on test: 98.0 % unpruned; at 95 % zeros one-shot 97.1, gradual 97.1, lottery 97.4, distilled 96.7,
    random 43; at 98 % 90.5, 93.2, 93.3, 92.3, 12. With --scope layer, where every kernel is as sparse as the others and
    the first layer keeps 7 of its 144 weights, when and how matter more: at 95 % one-shot 53.6, gradual 71.9, distilled
    72.8, lottery 58.4, random 30.2.
"""

import sys
from collections.abc import Sequence

from distill.studies import command
from experiments.sparsity.config import SMOKE, Sparsities
from experiments.sparsity.study import check, run


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table."""
    return command(
        "sparsity",
        arguments,
        default=Sparsities(),
        smoke=SMOKE,
        prog="scripts/study sparsity",
        description=__doc__,
        check=check,
        work=run,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
