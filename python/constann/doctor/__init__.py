"""`constann doctor`: examines this machine and this installation, and says what is wrong and what to do.

Its own process imports neither numpy nor the extension: what may die is tried in child processes (children.py).
"""
