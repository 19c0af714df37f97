"""Several runs, each with several seeds, side by side: what ``tools/compare.py`` is made of.

==========  ==========================================================================================
plan        a comparison file, checked, and the trainings that it asks for
run_config  the config of a run, checked as far as takes no time
training    one training in a process of its own, which goes on where it stopped
pool        all trainings, some at a time, on this machine
results     what a training has come to
statistics  means over seeds, and differences with an interval
tables      the rows of the comparison, as Markdown and CSV
page        its pictures, and the page that holds everything
progress    what is told and written while trainings end
==========  ==========================================================================================
"""
