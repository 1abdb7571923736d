"""Does a small student learn more from a teacher than from the labels alone?"""
