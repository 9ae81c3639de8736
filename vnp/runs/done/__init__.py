"""Done: receipts, how far a run is, and the merging of its shards."""
