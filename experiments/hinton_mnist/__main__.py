"""Repeats Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 3, on full MNIST.

A teacher with two layers of 1,200 rectified units and dropout learns from images that are shifted by up to two pixels.
Students with two layers of 800 units and without regularization see the images as they are, and learn alone, or from
the labels (weight .1) and the teacher's answers at T = 20 (weight .9). Then a student never sees the digit 3, and the
bias of its logit is raised afterwards. Here that bias is chosen on dev. The paper chose it on test, and that result is
shown as well. Unlike the paper, this study also trains a student alone without 3s, which shows that labels cannot teach
what the teacher's answers do.

Command: scripts/study hinton_mnist --manual-dir DIR, with the four files of MNIST in DIR. 2 seeds, 10 cells: 83 minutes
on two cores that had as much other work to do; about half an hour of processor time.

Found: test errors of the teacher 76 ± 2 (paper: 67), alone 150 ± 12 (146), distilled 96 ± 2 (74), distilled without 3s
117 ± 8, of them 36 on 3s (206, of them 133), and with the better bias 106 ± 4 by dev or 102 ± 3 by test (109).

Differences from the paper: networks learn from 54,000 of the 60,000 training images, since dev takes the other 6,000;
the teacher has no weight constraint; training takes 60 epochs of Adam, and 40 for students.

Why 96 and not 74: the following was tried by hand with this study's functions, not with its command, so test was not
read again. The numbers are errors on dev for seed 0, where the teacher makes 46 and the student 58. These are not the
cause: the length of the training (120 epochs at 1e-3: 56), the learning rate (5e-4: 64), Adam (SGD with momentum .9 at
.02: 65, at .005: 77), the labels (without them: 55), and the number of images (48,000: 55). But if the transfer set is
shifted like the teacher's images (--student.jitter 2), the student makes 47 errors, as few as the teacher. On unshifted
images it already answers as the teacher does; what it lacks is what the teacher knows about shifted ones. The paper's
student learned more of that, from the targets of a teacher that we do not have. The paper's dropout rates, .5 and .2,
and a weight constraint of 3 do not make such a teacher by themselves: it makes 57 errors after 80 of 100 epochs.

Choices, on dev with one seed: with dropout .3 on hidden units the teacher makes 52 errors after 30 epochs; with .5, and
.2 on pixels, the rates of the paper's reference, it makes 65 after 40, since it underfits in such a short training (.7%
errors on its own images). Labels have weight .1 rather than 0: without 3s, that makes 78 errors rather than 84 after
the change of bias.
"""

import sys
from collections.abc import Sequence

from distill.studies import command
from experiments.hinton_mnist.config import SMOKE, Hinton
from experiments.hinton_mnist.study import check, run


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table of errors; returns the exit status."""
    return command(
        "hinton_mnist",
        arguments,
        default=Hinton(),
        smoke=SMOKE,
        prog="scripts/study hinton_mnist",
        description=__doc__,
        check=check,
        run=run,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
