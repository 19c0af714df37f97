"""Several runs, each with several seeds, side by side: the parts of ``pab compare``.

==========  ==========================================================================================
plan        a comparison file, checked, and the trainings that it asks for
run_config  the config of a run, checked without loading data
training    one training in a process of its own, which goes on where it stopped
pool        all trainings, some at a time, on this machine
results     the result of a training
summary     means over seeds, and differences with an interval
tables      the rows of the comparison, as Markdown and CSV
page        its pictures, and the page that holds everything
progress    messages and tables while trainings end
==========  ==========================================================================================
"""
