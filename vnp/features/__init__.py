"""Feature rows: their layout, the projection of the DNA half, the files that hold them, merging and export."""
