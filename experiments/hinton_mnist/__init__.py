"""Repeats the MNIST experiments of Hinton, Vinyals and Dean 2015."""
