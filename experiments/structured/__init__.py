"""How small can a network be made by taking channels out, and what decides how good it then is?"""
