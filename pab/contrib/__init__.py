"""Code that passes its tests, but has not run yet where it is meant to run.

====================  ==================================================  ===========================================
module                use                                                 missing
====================  ==================================================  ===========================================
gradient_compression  ``GradientCompressionHook``: less to exchange       GPUs by nccl; two CPU processes ran by gloo
sparse                ``pab test --sparse``: 2:4 kernels             a GPU of capability 8.0; CPU stand-ins ran
====================  ==================================================  ===========================================
"""
