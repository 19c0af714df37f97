"""The costs of a network and its training.

=========  ==================================================================
count      the formulas, and the counts of layers, steps, prunings and bytes
narrow     the costs without the channels that pruning has left without use
structure  what layers take to store, and what 2:4 weights would save
run        the costs of a step of a config's run, beside other ways to train its network
=========  ==================================================================
"""
