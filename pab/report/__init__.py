"""The report of a run: a record of numbers, pictures, and a page that holds both.

======  =============================================================================
record  the numbers of a run, which ``report.json`` in its work dir keeps
run     the pictures and the page of one run, and of several
figures curves, points, heat maps, bars
page    a page of HTML without any other file
amounts large numbers as people read them
======  =============================================================================
"""
