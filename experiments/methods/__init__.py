"""Does any published method beat plain distillation, a tuned baseline without a teacher, or nothing at all?"""
