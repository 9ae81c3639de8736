"""Trains encoders end to end: genomes to packed arrays, to random crops, to a folder with a trained network.

Read the modules in this order: ``sheet`` (which files), ``genomes`` (packed), ``split`` (which units are kept apart),
``matches`` (which pieces of hosts match viruses), ``crops`` (what a step sees), ``loop`` (the training), ``measure``
and ``calibration`` (how good it is), ``folder`` (what is written).
"""
