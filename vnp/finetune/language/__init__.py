"""Trains encoders of the ESM2 family on the proteins of a training set.

Read the modules in this order: ``recipe`` (what is asked), ``examples`` (a set as tokens), ``attention`` and
``network`` (ESM2 with gradients), ``objectives`` (what is made small), ``batches`` and ``loop`` (the training),
``folder`` (the encoder that is written).
"""
