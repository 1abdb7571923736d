"""Is any published method better than plain distillation, than a tuned student without a teacher, or than nothing?

Small CNNs learn from 4,000 series (mnist1d) and 3,000 digits (mnist5k) with every method of `distill`, side by side:
the same teachers, initial weights, data order, optimizer and number of steps. Each method has one setting that is
chosen on dev, most often the weight of its loss, from three values of its own; for losses with a published weight,
these are a tenth of it, the weight itself and ten times it. The test split is read once.

The networks and their learning rate were chosen on dev with three arms alone (alone, smoothing, kd), so that teachers
train without collapse, and students are neither as good as their teachers nor too small to follow them. On mnist1d,
students with 4 and 8 filters become worse with any soft targets (82% against 87% alone, on dev); this study is not
about them.

Command: scripts/study methods. 5 seeds, 642 cells, run in parts and next to other work: 11 hours of one core. DKD was
run again after it had got its warm-up, with the baselines, which came out the same.

Found: two of 28 methods are better than the student alone on both data sets: three teachers (+1.7 ± 1.7 and +0.6 ± 0.5
points) and an ensemble of three students (+4.1 ± 1.9 and +0.6 ± 0.3). Only the ensemble is better than label smoothing
on either. Plain distillation: +0.9 ± 2.4 and +0.2 ± 0.2. mnist1d needs more seeds: half an interval is 1 to 4 points
there.
"""

import sys
from collections.abc import Sequence

from distill.studies import command
from experiments.methods.config import SMOKE, Methods
from experiments.methods.study import check, run


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table; returns the exit status."""
    return command(
        "methods",
        arguments,
        default=Methods(),
        smoke=SMOKE,
        prog="scripts/study methods",
        description=__doc__,
        check=check,
        run=run,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
