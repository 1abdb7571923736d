"""Studies that compare compressed students with their teachers: a folder for each, written on `distill.studies`."""
