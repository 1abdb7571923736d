"""How many weights of a CNN can go, and what decides it: when to prune, what to keep, or how to recover?"""
