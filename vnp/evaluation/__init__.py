"""How good a classifier is: metrics with intervals, levels from frame to record, paired comparison and plots."""
