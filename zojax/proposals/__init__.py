"""Proposes a configuration for a table of a user's own.

``columns`` looks at the table, ``choice`` decides what is learnt from which columns, ``proposal``
sets the numbers of rows and steps, and ``writing`` makes a Python file of it all.
"""
