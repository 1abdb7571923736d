"""How many weights are zero, and the table of them."""

from pruned_nets import net

from distill import pruning
from distill.pruning import NofM


def test_the_table():
    model = net()
    shown = str(pruning.prune(model, pattern=NofM(2, 4)))
    assert shown.splitlines() == [
        "kernel       shape      weights        zeros  sparsity",
        "head/kernel  8 × 3           24           12    50.00%",
        "total                        24           12    50.00%",
        "not pruned: hidden/kernel (its 6 input channels are not a multiple of 4)",
    ]
