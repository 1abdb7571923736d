"""Studies that compare compressed students with their teachers, and what they share."""
