"""Decides from a feature row whether it is viral: the network, its training, its calibration and its file."""
