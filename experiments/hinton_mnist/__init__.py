"""Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 3, on full MNIST."""
