"""Code that passes its tests and has not run where it is meant to run; it moves out of here once it has.

=======  ==================================================  ==============================================
module   use                                                 missing
=======  ==================================================  ==============================================
cluster  ``tools/compare.py --cluster``: a job per training  a Slurm cluster; it ran on one machine only
sparse   ``tools/test.py --sparse``: 2:4 kernels             a GPU of CUDA capability 8.0; CPU stand-ins ran
=======  ==================================================  ==============================================
"""
