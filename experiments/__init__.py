"""Studies that compare compressed students with their teachers: a file for each, written on `distill.studies`."""
